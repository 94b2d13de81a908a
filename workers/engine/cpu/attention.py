"""Attention over pages on a CPU: one compiled kernel that rotates, stores and attends. Decoding rows and prompt chunks are alike to it.

Importing this module compiles nothing; the first `CpuAttention` does, or loads what an earlier process left.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

from workers.engine.attention import Batch, Heads, LayerKind, Rotation
from workers.engine.cpu.compiled import THREADS, inlined, kernel, set_threads
from workers.engine.cpu.numbers import LOG2E, power_of_2, put
from workers.engine.cpu.tile import address, product
from workers.engine.kv_cache import KvCache

_TILE = 8
"""Query tokens of one sequence that share a pass over its pages."""
_SPAN = 64
"""Keys, about, whose weights are computed at once."""
_REGISTERS = 12
"""Sums that a tile of a product keeps."""
_LOWEST = np.float32(-1e30)
_UNBOUNDED = 1 << 62
"""The window of a layer that has none."""


class CpuAttention:
    """See `attention.Attention`."""

    def __init__(self, cache: KvCache, heads: Heads, layers: Sequence[LayerKind]) -> None:
        self._heads = heads
        self._layers = layers
        self._keys = [_array(pages) for pages in cache.keys]
        self._values = [_array(pages) for pages in cache.values]
        self._tables = cache.tables.numpy()
        self._kernel = _build_kernel(heads.query, heads.kv, heads.dim, cache.block_size, self._keys[0].dtype == np.uint16)
        self._tiles = np.empty(0, np.int64)
        self._bounds: dict[int | None, Any] = {}
        self._rotations: list[tuple[Any, Any]] = []

    def begin(self, batch: Batch, rotations: Sequence[Rotation]) -> None:
        self._rotations = [(cos.numpy(), sin.numpy()) for cos, sin in rotations]
        self._tiles = _tiles(batch)
        self._bounds = {window: self._share(window) for window in {kind.window for kind in self._layers}}

    def _share(self, window: int | None) -> Any:
        """Work is dealt out in pairs of tile and kv head, a thread's share being contiguous and of equal cost."""
        positions, counts = self._tiles[:, 1], self._tiles[:, 2]
        seen = counts + (positions if window is None else np.minimum(positions, window))
        cost = np.cumsum(np.repeat(seen * (counts + 1), self._heads.kv))
        shares = cost[-1] * np.arange(1, THREADS) // THREADS
        return np.concatenate(([0], np.searchsorted(cost, shares), [len(cost)]))

    def __call__(self, layer: int, qkv: Any) -> Any:
        kind = self._layers[layer]
        cos, sin = self._rotations[kind.rotation]
        scale = np.float32(kind.scale) * LOG2E  # scores are powers of 2, not of e
        window = _UNBOUNDED if kind.window is None else kind.window
        out = np.empty((len(qkv), self._heads.query * self._heads.dim), np.float32)
        self._kernel(
            qkv, out, self._keys[layer], self._values[layer], self._tables, cos, sin,
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


@inlined
def _rotate(x: Any, cos: Any, sin: Any, factor: Any, target: Any, half: int) -> None:
    for d in range(half):
        a, b = x[d] * factor, x[d + half] * factor
        put(target, d, a * cos[d] - b * sin[d])
        put(target, d + half, b * cos[d] + a * sin[d])


@inlined
def _store(
    token: int, position: int, slot: int, qkv: Any, keys: Any, values: Any, tables: Any, cos: Any, sin: Any, key_offset: int
) -> None:
    """Rotate a token's keys and put them and its values into the page where it belongs."""
    kv_heads, dim, size = keys.shape[1], keys.shape[2], keys.shape[3]
    page, offset = tables[slot, position // size], position % size
    for h in range(kv_heads):
        k, v = key_offset + h * dim, key_offset + (kv_heads + h) * dim
        _rotate(qkv[token, k : k + dim], cos[token], sin[token], np.float32(1.0), keys[page, h, :, offset], dim // 2)
        for d in range(dim):
            put(values[page, h, offset], d, qkv[token, v + d])


@inlined
def _weigh(scores: Any, first: int, end: int, state: Any, sums: Any) -> None:
    """Scores of one query → weights, in place: 0 outside of [first, end). `state`: greatest score so far, sum of weights so far.

    Softmax with a running maximum (Milakov and Gimelshein, 2018): when the maximum grows, what was summed before shrinks.
    """
    size = len(scores)
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
        for d in range(len(sums)):
            sums[d] *= shrink
    for j in range(size):
        scores[j] = power_of_2(scores[j] - top)
    for j in range(first):
        scores[j] = np.float32(0.0)
    for j in range(end, size):
        scores[j] = np.float32(0.0)
    weight = np.float32(0.0)
    for j in range(size):
        weight += scores[j]
    state[1] += weight


@inlined
def _begin(
    tile: Any, head: int, qkv: Any, cos: Any, sin: Any, queries: Any, sums: Any, state: Any, group: int, dim: int, scale: Any
) -> None:
    """The queries of a tile that read one kv head, rotated."""
    for n in range(tile[2] * group):
        i, q = tile[0] + n // group, (head * group + n % group) * dim
        _rotate(qkv[i, q : q + dim], cos[i], sin[i], scale, queries[n], dim // 2)
        state[n, 0], state[n, 1] = _LOWEST, np.float32(0.0)
        sums[n] = np.float32(0.0)


@inlined
def _weigh_all(tile: Any, b: int, scores: Any, state: Any, sums: Any, group: int, size: int, window: int) -> None:
    """Of all queries of a tile, for the keys of a span that begins with page b."""
    span = scores.shape[1]
    for n in range(tile[2] * group):
        end = tile[1] + n // group + 1 - b * size
        first = min(max(end - window, 0), span)
        _weigh(scores[n], first, max(min(end, span), first), state[n], sums[n])


@inlined
def _end(tile: Any, head: int, sums: Any, state: Any, out: Any, group: int, dim: int) -> None:
    for n in range(tile[2] * group):
        i, q = tile[0] + n // group, (head * group + n % group) * dim
        out[i, q : q + dim] = sums[n] / state[n, 1]


@functools.cache
def _build_kernel(query_heads: int, kv_heads: int, dim: int, size: int, half: bool) -> Callable[..., None]:
    """The kernel for one shape. Pages outside, queries inside: a page is read from memory once for all of a tile."""
    group, pages = query_heads // kv_heads, max(1, _SPAN // size)
    key_lanes, value_lanes = 8 if size % 8 == 0 else 4, 8 if dim % 8 == 0 else 4
    key_vectors, value_vectors = _vectors(size // key_lanes), _vectors(dim // value_lanes)
    key_rows, value_rows = min(6, _REGISTERS // key_vectors), min(6, _REGISTERS // value_vectors)
    number = 2 if half else 4  # bytes

    def attend(
        qkv: Any, out: Any, keys: Any, values: Any, tables: Any, cos: Any, sin: Any, tiles: Any, bounds: Any, scale: Any, window: int
    ) -> None:
        set_threads(np.int32(len(bounds) - 1))
        for t in numba.prange(len(tiles)):
            for i in range(tiles[t, 2]):
                _store(tiles[t, 0] + i, tiles[t, 1] + i, tiles[t, 3], qkv, keys, values, tables, cos, sin, query_heads * dim)
        for thread in numba.prange(len(bounds) - 1):
            queries = np.empty((_TILE * group, dim), np.float32)
            sums = np.empty((_TILE * group, dim), np.float32)
            state = np.empty((_TILE * group, 2), np.float32)
            scores = np.empty((_TILE * group, pages * size), np.float32)
            for item in range(bounds[thread], bounds[thread + 1]):
                tile, head = tiles[item // kv_heads], item % kv_heads
                _begin(tile, head, qkv, cos, sin, queries, sums, state, group, dim, scale)
                rows, first, last = tile[2] * group, max(0, tile[1] + 1 - window) // size, (tile[1] + tile[2] - 1) // size
                # Spans begin at the same places for every query, and so its sums are made in the same order in every tile.
                for span in range(first // pages * pages, last + 1, pages):
                    begin, end = max(span, first), min(span + pages, last + 1)
                    for b in range(begin, end):
                        k = address(keys, (tables[tile[3], b] * kv_heads + head) * dim * size * number)
                        product(
                            key_rows, key_vectors, key_lanes, half, rows, dim, size, address(queries, 0), dim * 4, k, size * number,
                            key_vectors * key_lanes * number, address(scores, (b - span) * size * 4), pages * size * 4, 0,
                        )  # fmt: skip
                    _weigh_all(tile, span, scores, state, sums, group, size, window)
                    for b in range(begin, end):
                        v = address(values, (tables[tile[3], b] * kv_heads + head) * dim * size * number)
                        product(
                            value_rows, value_vectors, value_lanes, half, rows, size, dim, address(scores, (b - span) * size * 4),
                            pages * size * 4, v, dim * number, value_vectors * value_lanes * number, address(sums, 0), dim * 4, 1,
                        )  # fmt: skip
                _end(tile, head, sums, state, out, group, dim)

    return kernel(attend)


def _vectors(there_are: int) -> int:
    """How many vectors of columns a tile takes: the most that divide all of them and leave registers for three rows."""
    return max(n for n in range(1, _REGISTERS // 3 + 1) if there_are % n == 0)
