"""How kernels are compiled, and the one pool of threads that runs them."""

import os
from collections.abc import Callable
from typing import Any

# numba's own order tries tbb first, whose threads spin beside OpenMP's. Where there is no OpenMP, anything will do.
os.environ.setdefault("NUMBA_THREADING_LAYER_PRIORITY", "omp tbb workqueue")

import numba
import numba.extending
import numpy as np
import torch
from numba.core.registry import cpu_target

from workers.engine.cpu.kernel_folder import kernel_folder
from workers.engine.cpu.kernel_store import KernelStore
from workers.engine.processors import count_processors

# Everything but the promise that there are no NaNs: they must come through, to be seen in the logits.
_FASTMATH = {"contract", "reassoc", "nsz", "arcp", "afn"}
_NEEDED = ("avx2", "fma", "f16c")
"""Of x86. Without F16C there is no code for halves at all, without FMA a call for each product. All 64-bit ARMs have the like."""
_settings: Any = numba.config
_settings.reload_config()  # who imported numba before has done so without the line above
THREADS: int = min(torch.get_num_threads(), _settings.NUMBA_NUM_THREADS, count_processors())
"""torch looks at OMP_NUM_THREADS and at cores, numba at NUMBA_NUM_THREADS."""
_STORE = KernelStore(kernel_folder(_settings.CACHE_DIR))


def lacking() -> tuple[str, ...]:
    """Instructions that the kernels need and the processor that they would be compiled for has not."""
    triple, _, features = cpu_target.target_context.codegen().magic_tuple()
    return tuple(name for name in _NEEDED if f"+{name}" not in features.split(",")) if triple.startswith("x86_64") else ()


def be_the_only_pool() -> None:
    """What is left to torch it does in the calling thread: its own threads would spin for more work where ours are to run."""
    torch.set_num_threads(1)


def kernel(function: Callable[..., None]) -> Callable[..., None]:
    """Compiled when it is first called, or loaded from what an earlier process left in `kernel_folder`.

    Its free variables must be numbers, since they are the key under which it is found there. Its own arithmetic is exact: sums that may be
    made in another order belong into what is `inlined`. (With fastmath here, products of `tile` take half as long again.)
    """
    dispatcher: Any = numba.njit(nogil=True, error_model="numpy", parallel=True)(function)
    dispatcher._cache = _STORE.cache_of(function)  # where numba's own would be
    result: Callable[..., None] = dispatcher
    return result


def inlined(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compiled into its caller, whose constants thereby become bounds of its loops, which are then unrolled and vectorized."""
    result: Callable[..., Any] = numba.njit(fastmath=_FASTMATH, error_model="numpy", forceinline=True)(function)
    return result


def intrinsic(function: Callable[..., Any]) -> Callable[..., Any]:
    """What writes LLVM's code itself: of a typing context and types, a signature and a function that generates the code."""
    result: Callable[..., Any] = numba.extending.intrinsic(prefer_literal=True)(function)
    return result


set_threads: Any = numba.types.ExternalFunction("set_num_threads", numba.types.void(numba.types.int32))
"""Of the runtime that numba links kernels with, for the loops that follow. Its own door to it cannot be kept on disk."""
numba.get_num_threads()  # starts that runtime: before it, nobody would find the name


@inlined
def take_threads(work: Any, at_least: Any, most: Any) -> Any:
    """How many threads the loops that follow get, each of which is to have `at_least` so much of the `work`: waking one takes time too.

    In compiled code it takes none. `most` is an argument since a constant of this process would stay in the kernel that others load.
    """
    threads = max(1, min(most, work // at_least))
    set_threads(np.int32(threads))
    return threads
