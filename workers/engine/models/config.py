"""config.json of a model folder, with errors that name the file, the field and the value."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from headrace.architectures import paged_architecture, unsupported
from headrace.errors import ModelUnavailable


class Config:
    """The fields of a config.json. All methods raise ModelUnavailable for a value that has the wrong type."""

    def __init__(self, folder: Path) -> None:
        """Raises ModelUnavailable for a file that cannot be read."""
        self._file = folder / "config.json"
        try:
            self._fields: Mapping[str, Any] = json.loads(self._file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ModelUnavailable(f"cannot read {self._file}: {error}") from error
        if not isinstance(self._fields, dict):
            raise ModelUnavailable(f"{self._file} must hold a JSON object")

    def architecture(self) -> str:
        """One that the paged engine runs. Raises ModelUnavailable, naming what it does."""
        return paged_architecture(self._fields, self._file)

    def get(self, key: str, default: Any = None) -> Any:
        """What is there, null included; `default` where nothing is."""
        return self._fields.get(key, default)

    def count(self, key: str, default: int | None = None, *, least: int = 1) -> int:
        """An integer of at least `least`; null is as good as missing, and without a default an error."""
        value = self._value(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ModelUnavailable(f"{self._file}: {key!r} must be an integer of at least {least}, got {value!r}")
        return value

    def number(self, key: str, default: float) -> float:
        """A positive number; null is as good as missing."""
        value = self._value(key, default)
        if not isinstance(value, (int, float)) or isinstance(value, bool) or value <= 0:
            raise ModelUnavailable(f"{self._file}: {key!r} must be a positive number, got {value!r}")
        return float(value)

    def mapping(self, key: str) -> Mapping[str, Any]:
        """An object; null or nothing is an empty one."""
        value = self._value(key, {})
        if not isinstance(value, dict):
            raise ModelUnavailable(f"{self._file}: {key!r} must be an object, got {value!r}")
        return value

    def items(self, key: str, length: int) -> list[Any] | None:
        """A list of `length`; None where there is none."""
        value = self._fields.get(key)
        if value is not None and (not isinstance(value, list) or len(value) != length):
            raise ModelUnavailable(f"{self._file}: {key!r} must be a list of {length}, one for each layer, got {value!r}")
        return value

    def refuse(self, *keys: str) -> None:
        """Raises ModelUnavailable where one of `keys` asks for something: the engine would compute without it."""
        for key in keys:
            if value := self._fields.get(key):
                raise self.unsupported(f"{key}={value!r}")

    def refuse_quantized(self) -> None:
        """Raises ModelUnavailable where the weights are not plain numbers."""
        if quantization := self.get("quantization_config"):
            method = quantization.get("quant_method") if isinstance(quantization, Mapping) else quantization
            raise ModelUnavailable(
                f"{self._file}: quantized weights ({method}) are not supported; use the model's unquantized folder or a .gguf file"
            )

    def unsupported(self, what: str, *supported: str) -> ModelUnavailable:
        return unsupported(self._file, what, *supported)

    def _value(self, key: str, default: Any) -> Any:
        value = self._fields.get(key)
        return default if value is None else value
