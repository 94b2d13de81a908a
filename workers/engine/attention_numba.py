"""Attention over pages on a CPU: one compiled kernel that rotates, stores and attends. Decoding rows and prompt chunks are alike to it.

Importing this module compiles nothing; the first `NumbaAttention` does, or loads what an earlier process left in NUMBA_CACHE_DIR.
"""

import functools
import os
from collections.abc import Callable, Sequence
from typing import Any

# The default order tries tbb first, whose threads fight torch's for the cores. Read when numba first starts its threads.
os.environ.setdefault("NUMBA_THREADING_LAYER", "omp")

import numba
import numpy as np
import torch
from torch import Tensor

from workers.engine.attention import Batch, Heads, LayerKind, Rotation
from workers.engine.half import put, readable
from workers.engine.kv_cache import KvCache

_TILE = 8
"""Query tokens of one sequence that share a pass over its pages."""
# Everything but the promise that there are no NaNs: they must come through, to be seen in the logits.
_FASTMATH = {"contract", "reassoc", "nsz", "arcp", "afn"}
_LOG2E = np.float32(1.4426950408889634)
_LOWEST = np.float32(-1e30)
_UNBOUNDED = 1 << 62
"""The window of a layer that has none."""


class NumbaAttention:
    """See `attention.Attention`."""

    def __init__(self, cache: KvCache, heads: Heads, layers: Sequence[LayerKind]) -> None:
        self._heads = heads
        self._layers = layers
        self._keys = [_array(pages) for pages in cache.keys]
        self._values = [_array(pages) for pages in cache.values]
        self._tables = cache.tables.numpy()
        self._threads = min(torch.get_num_threads(), numba.get_num_threads())
        self._kernel = _build_kernel(heads.query, heads.kv, heads.dim, cache.block_size)
        self._tiles = np.empty(0, np.int64)
        self._bounds: dict[int | None, Any] = {}
        self._rotations: list[tuple[Any, Any]] = []

    def begin(self, batch: Batch, rotations: Sequence[Rotation]) -> None:
        self._rotations = [(cos.numpy(), sin.numpy()) for cos, sin in rotations]
        self._tiles = _tiles(batch)
        self._bounds = {window: self._share(window) for window in {kind.window for kind in self._layers}}
        numba.set_num_threads(self._threads)

    def _share(self, window: int | None) -> Any:
        """Work is dealt out in pairs of tile and kv head, a thread's share being contiguous and of equal cost."""
        positions, counts = self._tiles[:, 1], self._tiles[:, 2]
        seen = counts + (positions if window is None else np.minimum(positions, window))
        cost = np.cumsum(np.repeat(seen * (counts + 1), self._heads.kv))
        shares = cost[-1] * np.arange(1, self._threads) // self._threads
        return np.concatenate(([0], np.searchsorted(cost, shares), [len(cost)]))

    def __call__(self, layer: int, qkv: Tensor) -> Tensor:
        kind = self._layers[layer]
        cos, sin = self._rotations[kind.rotation]
        scale = np.float32(kind.scale) * _LOG2E  # scores are powers of 2, not of e
        window = _UNBOUNDED if kind.window is None else kind.window
        out = torch.empty((len(qkv), self._heads.query * self._heads.dim))
        self._kernel(
            qkv.numpy(), out.numpy(), self._keys[layer], self._values[layer], self._tables, cos, sin,
            self._tiles, self._bounds[kind.window], scale, window,
        )  # fmt: skip
        return out


def _array(pages: Tensor) -> Any:
    """For the kernel: float32, or the bits of halves."""
    return pages.view(torch.uint16).numpy() if pages.dtype == torch.float16 else pages.numpy()


def _tiles(batch: Batch) -> Any:
    """(tiles, 4) int64: index of the first token in the batch, its position, number of tokens, block table row."""
    counts, starts, slots = (np.array(column, np.int64) for column in (batch.counts, batch.starts, batch.slots))
    per_row = -(-counts // _TILE)
    row = np.repeat(np.arange(len(counts)), per_row)
    offset = (np.arange(len(row)) - np.repeat(np.cumsum(per_row) - per_row, per_row)) * _TILE
    first = np.cumsum(counts) - counts
    return np.stack((first[row] + offset, starts[row] + offset, np.minimum(_TILE, counts[row] - offset), slots[row]), axis=1)


def _inlined(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compiled into its caller, whose constants thereby become bounds of its loops, which are then unrolled and vectorized."""
    compiled: Callable[..., Any] = numba.njit(fastmath=_FASTMATH, error_model="numpy", forceinline=True)(function)
    return compiled


@_inlined
def _rotate(x: Any, cos: Any, sin: Any, factor: Any, target: Any, half: int) -> None:
    for d in range(half):
        a, b = x[d] * factor, x[d + half] * factor
        put(target, d, a * cos[d] - b * sin[d])
        put(target, d + half, b * cos[d] + a * sin[d])


@_inlined
def _power_of_2(x: Any, bits: Any, powers: Any, n: int) -> None:
    """x ← 2^x for x ≤ 0, in place, within 3e-7: a polynomial for the fraction, and the exponent written into the bits of a float.

    `bits` and `powers` are the same memory. (The library's exp2 is a call for each number.)
    """
    for j in range(n):
        y = max(x[j], np.float32(-126.0))
        whole = np.floor(y)
        f = y - whole
        bits[j] = (np.int32(whole) + np.int32(127)) << np.int32(23)
        p = np.float32(1.8775767e-3)
        p = p * f + np.float32(8.9893397e-3)
        p = p * f + np.float32(5.5826318e-2)
        p = p * f + np.float32(2.4015361e-1)
        p = p * f + np.float32(6.9315308e-1)
        x[j] = p * f + np.float32(9.9999994e-1)
    for j in range(n):
        x[j] *= powers[j]


@_inlined
def _score(query: Any, k: Any, scores: Any, dim: int, block_size: int) -> None:
    """Four keys at a time: a query is loaded once for four products, whose sums over lanes then overlap."""
    for j in range(0, block_size, 4):
        a, b, c, e = np.float32(0.0), np.float32(0.0), np.float32(0.0), np.float32(0.0)
        for d in range(dim):
            x = query[d]
            a += x * k[j, d]
            b += x * k[j + 1, d]
            c += x * k[j + 2, d]
            e += x * k[j + 3, d]
        scores[j], scores[j + 1], scores[j + 2], scores[j + 3] = a, b, c, e


@_inlined
def _add_values(scores: Any, v: Any, sums: Any, dim: int, block_size: int) -> None:
    for j in range(0, block_size, 4):
        a, b, c, e = scores[j], scores[j + 1], scores[j + 2], scores[j + 3]
        for d in range(dim):
            sums[d] += a * v[j, d] + b * v[j + 1, d] + c * v[j + 2, d] + e * v[j + 3, d]


@_inlined
def _visit(
    query: Any, k: Any, v: Any, first: int, end: int, sums: Any, state: Any, scores: Any, bits: Any, powers: Any, dim: int, size: int
) -> None:
    """One query meets one page, of which it may look at tokens [first, end), at least one, either bound being clipped to the page.
    `state`: greatest score so far, sum of weights so far.

    Softmax with a running maximum (Milakov and Gimelshein, 2018): when the maximum grows, what was summed before shrinks.
    """
    _score(query, k, scores, dim, size)
    for j in range(first):
        scores[j] = _LOWEST
    for j in range(end, size):
        scores[j] = _LOWEST
    top = state[0]
    for j in range(size):
        top = max(top, scores[j])
    if top > state[0]:
        shrink = np.exp2(state[0] - top)
        state[0] = top
        state[1] *= shrink
        for d in range(dim):
            sums[d] *= shrink
    for j in range(size):
        scores[j] -= top
    _power_of_2(scores, bits, powers, size)
    weight = np.float32(0.0)
    for j in range(size):
        weight += scores[j]
    state[1] += weight
    _add_values(scores, v, sums, dim, size)


@_inlined
def _store(
    token: int, position: int, slot: int, qkv: Any, keys: Any, values: Any, tables: Any, cos: Any, sin: Any, key_offset: int
) -> None:
    """Rotate a token's keys and put them and its values into the page where it belongs."""
    kv_heads, size, dim = keys.shape[1], keys.shape[2], keys.shape[3]
    page, offset = tables[slot, position // size], position % size
    for h in range(kv_heads):
        k, v = key_offset + h * dim, key_offset + (kv_heads + h) * dim
        _rotate(qkv[token, k : k + dim], cos[token], sin[token], np.float32(1.0), keys[page, h, offset], dim // 2)
        for d in range(dim):
            put(values[page, h, offset], d, qkv[token, v + d])


@_inlined
def _attend(
    tile: Any, head: int, qkv: Any, out: Any, keys: Any, values: Any, tables: Any, cos: Any, sin: Any,
    queries: Any, sums: Any, state: Any, scores: Any, bits: Any, powers: Any, wide: Any, group: int, dim: int, size: int, scale: Any,
    window: int,
) -> None:  # fmt: skip
    """All queries of one tile that read one kv head."""
    token, position, count, slot = tile[0], tile[1], tile[2], tile[3]
    for n in range(count * group):
        i, q = token + n // group, (head * group + n % group) * dim
        _rotate(qkv[i, q : q + dim], cos[i], sin[i], scale, queries[n], dim // 2)
        state[n, 0], state[n, 1] = _LOWEST, np.float32(0.0)
        sums[n] = np.float32(0.0)
    # Pages outside, queries inside: a page is read from memory once for all of the tile.
    for b in range(max(0, position + 1 - window) // size, (position + count - 1) // size + 1):
        page = tables[slot, b]
        k, v = readable(keys[page, head], wide[0]), readable(values[page, head], wide[1])
        for n in range(count * group):
            end = position + n // group + 1 - b * size
            first = end - window
            if end > 0 and first < size:
                _visit(queries[n], k, v, first, end, sums[n], state[n], scores, bits, powers, dim, size)
    for n in range(count * group):
        i, q = token + n // group, (head * group + n % group) * dim
        out[i, q : q + dim] = sums[n] / state[n, 1]


@functools.cache
def _build_kernel(query_heads: int, kv_heads: int, dim: int, size: int) -> Callable[..., None]:
    """The kernel for one shape. Its free variables are numbers only, since they are the key under which numba caches what it compiled."""
    group = query_heads // kv_heads

    def kernel(
        qkv: Any, out: Any, keys: Any, values: Any, tables: Any, cos: Any, sin: Any, tiles: Any, bounds: Any, scale: Any, window: int
    ) -> None:
        for t in numba.prange(len(tiles)):
            for i in range(tiles[t, 2]):
                _store(tiles[t, 0] + i, tiles[t, 1] + i, tiles[t, 3], qkv, keys, values, tables, cos, sin, query_heads * dim)
        for thread in numba.prange(len(bounds) - 1):
            queries = np.empty((_TILE * group, dim), np.float32)
            sums = np.empty((_TILE * group, dim), np.float32)
            state = np.empty((_TILE * group, 2), np.float32)
            scores = np.empty(size, np.float32)
            bits = np.empty(size, np.int32)
            powers = bits.view(np.float32)
            wide = np.empty((2, size, dim), np.float32)
            for item in range(bounds[thread], bounds[thread + 1]):
                _attend(
                    tiles[item // kv_heads], item % kv_heads, qkv, out, keys, values, tables, cos, sin,
                    queries, sums, state, scores, bits, powers, wide, group, dim, size, scale, window,
                )  # fmt: skip

    compiled: Callable[..., None] = numba.njit(cache=True, fastmath=_FASTMATH, nogil=True, error_model="numpy", parallel=True)(kernel)
    return compiled
