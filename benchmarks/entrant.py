"""Who takes part: what an engine's name stands for, and how its runner is started, or why it is not there."""

import argparse
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Entrant:
    engine: str
    dtype: str
    """Of the weights."""
    command: tuple[str, ...] = ()
    """The runner's without model and workload, which come behind `-m module`: see `argv`."""
    missing: str | None = None
    """Why it cannot take part."""

    def argv(self, model: Path, work: Path) -> list[str]:
        interpreter, module, *options = self.command
        return [interpreter, "-m", module, str(model), str(work), *options]


def entrant(name: str, options: argparse.Namespace) -> Entrant:
    """`options`: vllm_python, llama_server, gguf_f32, gguf_q8, each None if it was not given. Raises KeyError for a name not in ENGINES."""
    dtype, find = _ENGINES[name]
    found = find(options)
    return Entrant(name, dtype, missing=found) if isinstance(found, str) else Entrant(name, dtype, command=found)


_Find = Callable[[argparse.Namespace], tuple[str, ...] | str]
"""The command, or what is missing."""


def _paged(dtype: str) -> _Find:
    return lambda options: (sys.executable, "benchmarks.engines.paged", "--dtype", dtype)


def _transformers(options: argparse.Namespace) -> tuple[str, ...]:
    return (sys.executable, "benchmarks.engines.transformers")


def _vllm(options: argparse.Namespace) -> tuple[str, ...] | str:
    if options.vllm_python is None:
        return "--vllm-python is not given"
    interpreter = shutil.which(options.vllm_python)
    return (interpreter, "benchmarks.engines.vllm") if interpreter else f"there is no interpreter {options.vllm_python}"


def _llamacpp(option: str) -> _Find:
    def find(options: argparse.Namespace) -> tuple[str, ...] | str:
        server, gguf = shutil.which(options.llama_server), getattr(options, option)
        flag = "--" + option.replace("_", "-")
        if server is None:
            return f"there is no program {options.llama_server}"
        if gguf is None:
            return f"{flag} is not given"
        if not gguf.is_file():
            return f"there is no file {gguf}"
        return (sys.executable, "benchmarks.engines.llamacpp", "--server", server, "--gguf", str(gguf))

    return find


_ENGINES: Mapping[str, tuple[str, _Find]] = {
    "paged-fp32": ("fp32", _paged("fp32")),
    "paged-int8": ("int8", _paged("int8")),
    "transformers": ("fp32", _transformers),
    "vllm": ("fp32", _vllm),
    "llamacpp-f32": ("fp32", _llamacpp("gguf_f32")),
    "llamacpp-q8": ("q8_0", _llamacpp("gguf_q8")),
}
ENGINES = tuple(_ENGINES)
