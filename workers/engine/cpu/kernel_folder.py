"""Where compiled kernels are kept from one process to the next."""

import contextlib
import hashlib
import logging
import os
import shutil
import time
from pathlib import Path

from headrace.settings import default_cache_dir

logger = logging.getLogger(__name__)

UNUSED_S = 30 * 86_400.0
"""Folders of other versions are removed when no process has started with them for so long: until then one may be used beside this one."""


def kernel_folder(given: str) -> str | None:
    """One for each state of the sources: numba looks for changes in a kernel's own file, not in those of what is compiled into it.

    In the folder `given`, or that of the default settings. None if nothing can be written there.
    """
    parent = Path(given) if given else default_cache_dir() / "kernels"
    folder = parent / f"kernels-{_state_of_sources()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        os.utime(folder)
        _remove_unused(parent, time.time() - UNUSED_S)
    except OSError as error:
        logger.warning("kernels are compiled anew at every start: %s", error)
        return None
    return str(folder)


def _state_of_sources() -> str:
    sources = hashlib.sha256()
    for file in sorted(Path(__file__).parent.glob("*.py")):
        sources.update(file.read_bytes())
    return sources.hexdigest()[:16]


def _remove_unused(parent: Path, before: float) -> None:
    for folder in parent.glob("kernels-*"):
        with contextlib.suppress(FileNotFoundError):  # another process is at it too
            if folder.stat().st_mtime < before:
                shutil.rmtree(folder)
