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


def kernel_folder(given: str) -> Path | None:
    """One for each state of the sources: what is compiled into a kernel may be in any of them.

    In the folder `given`, or that of the default settings. None if it is not there and cannot be made. One that is there but cannot be
    written is good for what it holds.
    """
    parent = Path(given) if given else default_cache_dir() / "kernels"
    folder = parent / f"kernels-{_state_of_sources()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        logger.warning("kernels are compiled anew at every start, which takes up to a minute: %s", error)
        return None
    with contextlib.suppress(OSError):  # somebody else's, or read-only: then it is not ours to tidy up either
        os.utime(folder)
        _remove_unused(parent, time.time() - UNUSED_S)
    return folder


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
