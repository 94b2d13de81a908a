"""How kernels are compiled, and the one pool of threads that runs them."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

# The default order tries tbb first, whose threads spin beside OpenMP's. Read when numba first starts its threads.
os.environ.setdefault("NUMBA_THREADING_LAYER", "omp")

import numba
import numba.extending
import torch

# Everything but the promise that there are no NaNs: they must come through, to be seen in the logits.
_FASTMATH = {"contract", "reassoc", "nsz", "arcp", "afn"}
THREADS: int = min(torch.get_num_threads(), numba.get_num_threads())
"""torch looks at OMP_NUM_THREADS and at cores, numba at NUMBA_NUM_THREADS and at what the process may use."""


def _cache_dir(given: str) -> str:
    """One for each state of this folder: numba looks for changes in a kernel's own file, not in those of what is compiled into it."""
    here, sources = Path(__file__).parent, hashlib.sha256()
    for file in sorted(here.glob("*.py")):
        sources.update(file.read_bytes())
    beside = here / "__pycache__" if os.access(here, os.W_OK) else Path.home() / ".cache" / "headrace"
    return str(Path(given or beside) / f"kernels-{sources.hexdigest()[:16]}")


_settings: Any = numba.config
_settings.CACHE_DIR = _cache_dir(_settings.CACHE_DIR)


def be_the_only_pool() -> None:
    """What is left to torch it does in the calling thread: its own threads would spin for more work where ours are to run."""
    torch.set_num_threads(1)


def kernel(function: Callable[..., None]) -> Callable[..., None]:
    """Compiled when it is first called, or loaded from what an earlier process left: in NUMBA_CACHE_DIR, or beside this file.

    Its free variables must be numbers, since they are the key under which it is found there. Its own arithmetic is exact: sums that may be
    made in another order belong into what is `inlined`. (With fastmath here, products of `tile` take half as long again.)
    """
    result: Callable[..., None] = numba.njit(cache=True, nogil=True, error_model="numpy", parallel=True)(function)
    return result


def inlined(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compiled into its caller, whose constants thereby become bounds of its loops, which are then unrolled and vectorized."""
    result: Callable[..., Any] = numba.njit(fastmath=_FASTMATH, error_model="numpy", forceinline=True)(function)
    return result


def intrinsic(function: Callable[..., Any]) -> Callable[..., Any]:
    """What writes LLVM's code itself: of a typing context and types, a signature and a function that generates the code."""
    result: Callable[..., Any] = numba.extending.intrinsic(prefer_literal=True)(function)
    return result


def take_threads(work: int, at_least: int) -> int:
    """How many threads the next kernel gets, each of which is to have `at_least` so much of its `work`: waking one takes time too."""
    threads = max(1, min(THREADS, work // at_least))
    numba.set_num_threads(threads)
    return threads
