"""Building blocks of the request schemas: strict types, and checks that say what is wrong in one sentence.

Every check raises PydanticCustomError with the envelope's `code` as its type and, as its message, what follows the field's name.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, GetJsonSchemaHandler, model_validator
from pydantic_core import CoreSchema, PydanticCustomError
from pydantic_core.core_schema import no_info_after_validator_function

from headrace.request import MAX_STOPS
from headrace.wire.json_object import json_type

MAX_STOP_CHARS = 256
MAX_STOP_IDS = 64
MAX_BIASES = 1_024
MAX_BIAS = 100.0
UNKNOWN_FIELD = "unknown_field"
"""Error type for a field of the value that is at fault; its name is in the context."""
_TOKEN_ID = re.compile(r"0|[1-9][0-9]{0,9}", re.ASCII)
_MAX_METADATA = 16
_MAX_METADATA_KEY = 64
_MAX_METADATA_VALUE = 512


class Strict(BaseModel):
    """No coercion ("3" and true are not integers), no NaN, no unknown fields."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _check_count(cls, value: Any) -> Any:
        """Of more fields than there are one is unknown, and that is found sooner than each is reported."""
        if isinstance(value, dict) and len(value) > len(cls.model_fields):
            known = {field.alias or name for name, field in cls.model_fields.items()}
            name = next(name for name in value if name not in known)
            raise PydanticCustomError(UNKNOWN_FIELD, "is unknown", {"name": name})
        return value


def wrong(code: str, why: str) -> PydanticCustomError:
    # The text goes in as data: it may hold braces, which a template would read.
    return PydanticCustomError(code, "{why}", {"why": why})


@dataclass(frozen=True, eq=False)
class _Only:
    """Each is itself alone: `Annotated` keeps one of two equal ones, and False equals 0."""

    values: tuple[Any, ...]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"enum": [None, *self.values]}

    def _check(self, value: Any) -> Any:
        # Types are compared too: True == 1 in Python.
        if value is None or any(type(value) is type(one) and value == one for one in self.values):
            return value
        other = f" with a value other than {_either(self.values)}" if self.values else ""
        raise wrong("unsupported_parameter", f"is not supported{other}.")


def only(*values: Any) -> _Only:
    """For a field of OpenAI's API that we know and support at these values alone (null, its absence, included)."""
    return _Only(values)


def _either(values: tuple[Any, ...]) -> str:
    return " or ".join(str(value).lower() if isinstance(value, bool) else repr(value) for value in values)


def stop_strings(value: Any) -> tuple[str, ...]:
    """null, a string, or up to 4 of them."""
    if value is None:
        return ()
    stops = [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or not all(isinstance(stop, str) for stop in stops):
        raise wrong("invalid_type", f"must be a string or an array of strings, got {json_type(value)}.")
    if len(stops) > MAX_STOPS:
        raise wrong("invalid_value", f"must hold at most {MAX_STOPS} strings, got {len(stops)}.")
    for stop in stops:
        if not 1 <= len(stop) <= MAX_STOP_CHARS:
            raise wrong("invalid_value", f"must hold strings of 1 to {MAX_STOP_CHARS} characters, got one of {len(stop)}.")
    return tuple(stops)


def stop_ids(value: Any) -> tuple[int, ...]:
    """null, or token ids; whether the model has them is for later."""
    if value is None:
        return ()
    if not isinstance(value, list):
        raise wrong("invalid_type", f"must be an array of token ids, got {json_type(value)}.")
    if len(value) > MAX_STOP_IDS:
        raise wrong("invalid_value", f"must hold at most {MAX_STOP_IDS} token ids, got {len(value)}.")
    for index, token in enumerate(value):
        if type(token) is not int:  # bool is a subclass of int
            raise wrong("invalid_type", f"must be an array of token ids, but element [{index}] is {json_type(token)}.")
    return tuple(value)


def logit_biases(value: Any) -> tuple[tuple[int, float], ...]:
    """null, or biases by token id, by id; whether the model has them is for later."""
    if value is None:
        return ()
    if not isinstance(value, dict):
        raise wrong("invalid_type", f"must be an object of token ids and biases, got {json_type(value)}.")
    if len(value) > MAX_BIASES:
        raise wrong("invalid_value", f"must hold at most {MAX_BIASES} token ids, got {len(value)}.")
    biases: dict[int, float] = {}
    for name, bias in value.items():
        if not _TOKEN_ID.fullmatch(name):
            raise wrong("invalid_value", f"must have token ids as its keys, got {name[:40]!r}.")
        if type(bias) not in (int, float):
            raise wrong("invalid_type", f"must have numbers as its values, but that of {name} is {json_type(bias)}.")
        if not -MAX_BIAS <= bias <= MAX_BIAS:
            raise wrong("invalid_value", f"must hold biases from {-MAX_BIAS:.0f} to {MAX_BIAS:.0f}, got {bias} for {name}.")
        biases[int(name)] = float(bias)
    return tuple(sorted(biases.items()))


def few_pairs(pairs: Any) -> Any:
    """Before they are looked at one by one: each that is wrong would be reported."""
    if isinstance(pairs, dict) and len(pairs) > _MAX_METADATA:
        raise wrong("invalid_value", f"must hold at most {_MAX_METADATA} pairs, got {len(pairs)}.")
    return pairs


def metadata_pairs(pairs: dict[str, str] | None) -> dict[str, str] | None:
    if pairs is None:
        return None
    for key, value in pairs.items():
        if len(key) > _MAX_METADATA_KEY:
            raise wrong("invalid_value", f"must have keys of at most {_MAX_METADATA_KEY} characters, got one of {len(key)}.")
        if len(value) > _MAX_METADATA_VALUE:
            raise wrong("invalid_value", f"must have values of at most {_MAX_METADATA_VALUE} characters, got one of {len(value)}.")
    return pairs


def one_of(*choices: str) -> Callable[[str], str]:
    def check(value: str) -> str:
        if value not in choices:
            raise wrong("invalid_value", f"must be one of {', '.join(choices)}, got {value[:40]!r}.")
        return value

    return check
