"""Compiled kernels on disk: one file for each kernel, the types it was compiled for, and the processor.

In place of numba's own cache, which raises what the disk raises, whatever damaged bytes make pickle raise, and writes beside the sources
where it may not write. Here a kernel that cannot be kept is run all the same, and a file that is no kernel any more is compiled anew.
"""

import contextlib
import hashlib
import logging
import pickle
import secrets
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
from numba.core import serialize
from numba.core.compiler import CompileResult

logger = logging.getLogger(__name__)

_DIGEST_BYTES = 32
_dumps: Any = serialize.dumps
_rebuild: Any = CompileResult._rebuild


class KernelStore:
    """Of one process. `folder`: None keeps nothing."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._told = False
        self._keeps = folder is not None

    def cache_of(self, function: Callable[..., Any]) -> "KernelCache":
        return KernelCache(self, function)

    def read(self, name: str) -> Any:
        """What was written under `name`; None where nothing whole is."""
        if self._folder is None:
            return None
        file = self._folder / name
        try:
            content = file.read_bytes()
        except OSError:  # most often since there is none; if it is another reason, writing will tell
            return None
        data = content[_DIGEST_BYTES:]
        # A crash of the machine leaves files of the right length with zeros in them: machine code of zeros would end the process.
        if hashlib.sha256(data).digest() != content[:_DIGEST_BYTES]:
            logger.warning("%s is damaged: this kernel is compiled anew", file)
            return None
        return pickle.loads(data)  # noqa: S301 - of our own folder, as the code that would be run is

    def write(self, name: str, value: Any) -> None:
        """Whole or not at all. What cannot be written is said once."""
        if not self._keeps or self._folder is None:
            return
        data = _dumps(value)
        try:
            _write(self._folder, name, hashlib.sha256(data).digest() + data)
        except OSError as error:
            self._keep_nothing(error)

    def tell(self) -> None:
        """Once, before the first kernel is compiled: it takes long enough to be wondered at."""
        if self._told or self._folder is None:
            return
        self._told = True
        try:
            with tempfile.TemporaryFile(dir=self._folder) as probe:
                probe.write(b"writable")
        except OSError as error:
            self._keep_nothing(error)
            return
        logger.info("compiling kernels into %s, once; this takes up to a minute", self._folder)

    def _keep_nothing(self, error: OSError) -> None:
        self._keeps = False
        logger.warning(
            "kernels that are not in %s are compiled anew at every start, which takes up to a minute: it cannot be written (%s)",
            self._folder,
            error,
        )


class KernelCache:
    """One kernel's files, as numba's dispatcher asks for them."""

    def __init__(self, store: KernelStore, function: Callable[..., Any]) -> None:
        self._store = store
        code = function.__code__
        self._name = f"{Path(code.co_filename).stem}.{function.__qualname__.replace('<locals>.', '')}"
        cells = [cell.cell_contents for cell in function.__closure__ or ()]
        self._key = (numba.__version__, sys.implementation.cache_tag, code.co_firstlineno, code.co_code, cells)

    def load_overload(self, signature: Any, target: Any) -> Any:
        """What was compiled for types like `signature` and this processor; None where that is not there."""
        target.refresh()
        payload = self._store.read(self._file(signature, target.codegen()))
        if payload is None:
            self._store.tell()
            return None
        return _rebuild(target, *payload)

    def save_overload(self, signature: Any, compiled: Any) -> None:
        if not compiled.library.has_dynamic_globals:  # addresses of this process
            self._store.write(self._file(signature, compiled.codegen), compiled._reduce())

    def _file(self, signature: Any, codegen: Any) -> str:
        state = hashlib.sha256(repr((self._key, signature, codegen.magic_tuple())).encode()).hexdigest()
        return f"{self._name}-{state[:24]}.kernel"


def _write(folder: Path, name: str, content: bytes) -> None:
    """Others may write the same file at the same time; the last one's stays. Raises OSError."""
    unfinished = folder / f".{name}-{secrets.token_hex(8)}"
    try:
        unfinished.write_bytes(content)
        unfinished.replace(folder / name)
    except OSError:
        with contextlib.suppress(OSError):  # the first one tells
            unfinished.unlink(missing_ok=True)
        raise
