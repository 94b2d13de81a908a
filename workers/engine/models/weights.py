"""Tensors of a checkpoint, read from safetensors files by memory map, one file or several shards."""

import json
import reprlib
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from headrace.errors import ModelUnavailable


class Weights:
    """Names and tensors of a model folder. Raises ModelUnavailable for a file or tensor that is missing or has the wrong shape."""

    def __init__(self, folder: Path, *, device: torch.device, dtype: torch.dtype) -> None:
        self._folder = folder
        self.device = device
        self.dtype = dtype
        self._file_of = self._index()
        self._left = set(self._file_of)
        self._open: dict[str, Any] = {}
        for name in set(self._file_of.values()):
            try:
                self._open[name] = safe_open(folder / name, framework="pt")
            except (OSError, SafetensorError) as error:
                raise ModelUnavailable(f"cannot read {folder / name}: {error}") from error

    def _index(self) -> dict[str, str]:
        whole, index = self._folder / "model.safetensors", self._folder / "model.safetensors.index.json"
        if index.is_file():
            try:
                files = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise ModelUnavailable(f"cannot read {index}: {error!r}") from error
            if not isinstance(files, dict) or not all(isinstance(file, str) for file in files.values()):
                raise ModelUnavailable(f"{index}: 'weight_map' must be an object of file names, got {reprlib.repr(files)}")
            return files
        if not whole.is_file():
            raise ModelUnavailable(f"{self._folder} has neither model.safetensors nor model.safetensors.index.json")
        try:
            with safe_open(whole, framework="pt") as file:
                return dict.fromkeys(file.keys(), whole.name)
        except SafetensorError as error:
            raise ModelUnavailable(f"cannot read {whole}: {error}") from error

    def __contains__(self, name: str) -> bool:
        return name in self._file_of

    def take(self, name: str, *shape: int) -> Tensor:
        """The tensor `name`, on the model's device and in its type."""
        if name not in self._file_of:
            raise ModelUnavailable(f"{self._folder} has no tensor {name!r}")
        file = self._file_of[name]
        try:
            tensor: Tensor = self._open[file].get_tensor(name)
        except SafetensorError as error:
            raise ModelUnavailable(f"{self._folder / file} has no tensor {name!r}, which the index says is there: {error}") from error
        self._left.discard(name)
        if not tensor.is_floating_point():
            raise ModelUnavailable(f"{self._folder}: tensor {name!r} has the type {tensor.dtype}: quantized weights are not supported")
        if tuple(tensor.shape) != shape:
            raise ModelUnavailable(f"{self._folder}: tensor {name!r} must have shape {shape}, got {tuple(tensor.shape)}")
        return tensor.to(self.device, self.dtype)

    @property
    def left(self) -> list[str]:
        """What the checkpoint holds and nobody took."""
        return sorted(self._left)

    def take_rows(self, names: list[str], rows: list[int], *rest: int) -> Tensor:
        """Tensors one below the other: several projections of one input as one."""
        tensors = [self.take(name, count, *rest) for name, count in zip(names, rows, strict=True)]
        return torch.cat(tensors) if len(tensors) > 1 else tensors[0]
