"""Work on the rows of an activation on a CPU, each kind one compiled pass where torch would make five or six.

A row's result does not depend on which other rows there are: every row goes through the same code, whichever thread has it.
"""

import os
from collections.abc import Callable
from typing import Any

# The default order tries tbb first, whose threads fight torch's for the cores. Read when numba first starts its threads.
os.environ.setdefault("NUMBA_THREADING_LAYER", "omp")

import numba
import numpy as np
import torch
from torch import Tensor

# Everything but the promise that there are no NaNs: they must come through, to be seen in the logits.
_FASTMATH = {"contract", "reassoc", "nsz", "arcp", "afn"}
_THREADS: int = numba.get_num_threads()
_AT_LEAST = 65_536
"""Numbers for each thread; below, waking it takes longer than it saves."""


def _compiled(function: Callable[..., None]) -> Callable[..., None]:
    result: Callable[..., None] = numba.njit(cache=True, fastmath=_FASTMATH, nogil=True, error_model="numpy", parallel=True)(function)
    return result


@_compiled
def _rms_norm(x: Any, weight: Any, eps: Any, out: Any) -> None:
    width = x.shape[1]
    for i in numba.prange(x.shape[0]):
        squares = np.float32(0.0)
        for j in range(width):
            squares += x[i, j] * x[i, j]
        factor = np.float32(1.0) / np.sqrt(squares / np.float32(width) + eps)
        for j in range(width):
            out[i, j] = x[i, j] * factor * weight[j]


@numba.njit(fastmath=_FASTMATH, error_model="numpy", forceinline=True)
def _butterflies(x: Any, y: Any, half: int) -> None:
    for j in range(half):
        a, b = x[j], x[j + half]
        y[2 * j], y[2 * j + 1] = a + b, a - b


@_compiled
def _spread(x: Any, stages: int, greatest: Any, threads: int, out: Any, scales: Any) -> None:
    rows, width = x.shape
    for thread in numba.prange(threads):
        here, there = np.empty(width, np.float32), np.empty(width, np.float32)
        for i in range(rows * thread // threads, rows * (thread + 1) // threads):
            here[:] = x[i]
            for _ in range(stages // 2):
                _butterflies(here, there, width // 2)
                _butterflies(there, here, width // 2)
            top, total = np.float32(1e-30), np.float32(0.0)
            for j in range(width):
                top = max(top, abs(here[j]))
                total += here[j]
            factor = greatest / top
            for j in range(width):
                out[i, j] = here[j] * factor
            # Rounding to integers would make some number of what is none.
            scales[i, 0] = top / greatest if np.isfinite(total) else np.float32(np.nan)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / rms(x) · weight over the last axis of (T, n) float32 (Zhang and Sennrich, 2019)."""
    out = torch.empty_like(x)
    _set_threads(x)
    _rms_norm(x.numpy(), weight.numpy(), np.float32(eps), out.numpy())
    return out


def spread(x: Tensor, stages: int, greatest: float) -> tuple[Tensor, Tensor]:
    """Rows of (T, n) float32, n even, turned `stages` times (even) and then scaled so that the greatest number of each is ±`greatest`.

    A turn puts the sums and the differences of a row's two halves one by one in turn: a Hadamard transform in its form of constant geometry
    (Pease, 1968). Each is orthogonal but for a factor √2; after s of them every number has a share in 2^s others.

    Returns the rows, and (T, 1) what to multiply them by to undo the scaling.
    """
    out, scales = torch.empty_like(x), torch.empty((len(x), 1))
    _spread(x.numpy(), stages, np.float32(greatest), min(len(x), _set_threads(x)), out.numpy(), scales.numpy())
    return out, scales


def _set_threads(x: Tensor) -> int:
    threads = max(1, min(torch.get_num_threads(), _THREADS, x.numel() // _AT_LEAST))
    numba.set_num_threads(threads)
    return threads
