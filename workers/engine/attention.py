"""Attention over pages: the port, and an implementation in plain torch for any device."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from workers.engine.activations import Activations
from workers.engine.kv_cache import KvCache

GREATEST_HALF = 65_504.0


@dataclass(frozen=True, slots=True)
class Heads:
    """Shape of an attention layer. Query head h reads key and value head h // group."""

    query: int
    kv: int
    dim: int

    @property
    def group(self) -> int:
        return self.query // self.kv

    @property
    def qkv_width(self) -> int:
        return (self.query + 2 * self.kv) * self.dim


@dataclass(frozen=True, slots=True)
class LayerKind:
    """What the attention of one layer may have different from that of another. An implementation is made with one for each layer."""

    scale: float
    """Products of queries and keys are multiplied by it."""
    window: int | None = None
    """A token looks at so many tokens, itself the last of them; None: at all up to itself."""
    rotation: int = 0
    """Which of the rotations given to `begin` turns its queries and keys."""


Rotation = tuple[Tensor, Tensor]
"""Cosines and sines for the positions of a batch, each (T, head_dim / 2) float32."""


@dataclass(frozen=True, slots=True)
class Batch:
    """What one step computes: T tokens of R sequences, each sequence's tokens next to each other and in order."""

    token_ids: Tensor
    """(T,) int64"""
    positions: Tensor
    """(T,) int64, place of each token in its sequence"""
    slots: tuple[int, ...]
    """R block table rows"""
    starts: tuple[int, ...]
    """R; tokens of each sequence that lie in the cache already"""
    counts: tuple[int, ...]
    """R; its tokens in this batch, so they hold positions [start, start + count)"""
    sampled: Tensor
    """(S,) int64 indices into the T tokens: those whose logits are wanted"""


class Attention(Protocol):
    """One step is `begin`, then one call for each layer."""

    def begin(self, batch: Batch, rotations: Sequence[Rotation]) -> None: ...

    def __call__(self, layer: int, qkv: Activations) -> Activations:
        """Rotate queries and keys, store keys and values in their pages, attend causally to what each sequence has stored, as far back as
        the layer's window reaches.

        `qkv`: (T, heads.qkv_width), may be overwritten. Returns (T, query heads · head_dim).
        """
        ...


@dataclass(frozen=True, slots=True)
class _Group:
    """Rows of equal count, computed as one padded batch of r rows × n tokens over at most L cached positions."""

    tokens: Tensor
    """(r, n) indices into the batch"""
    tables: Tensor
    """(r, L / block_size)"""
    mask: Tensor
    """(r, 1, group · n, L), True where a query may look"""


class TorchAttention:
    """Attention in torch operations. All decoding rows are one group; rows of many tokens run one by one, for their masks are large."""

    def __init__(self, cache: KvCache, heads: Heads, layers: Sequence[LayerKind]) -> None:
        self._cache = cache
        self._heads = heads
        self._layers = layers
        self._groups: dict[int | None, list[_Group]] = {}
        self._rotations: list[Rotation] = []
        self._pages = self._offsets = torch.empty(0)

    def begin(self, batch: Batch, rotations: Sequence[Rotation]) -> None:
        device = batch.positions.device
        # The two halves of a head turn together: (T, 1, dim).
        self._rotations = [(torch.cat((cos, cos), -1)[:, None], torch.cat((-sin, sin), -1)[:, None]) for cos, sin in rotations]
        slots = torch.tensor(batch.slots, device=device)
        token_slots = slots.repeat_interleave(torch.tensor(batch.counts, device=device), output_size=len(batch.positions))
        self._pages = self._cache.tables[token_slots, batch.positions // self._cache.block_size].long()
        self._offsets = batch.positions % self._cache.block_size

        rows = range(len(batch.counts))
        decoding = [i for i in rows if batch.counts[i] == 1]
        groups = ([decoding] if decoding else []) + [[i] for i in rows if batch.counts[i] > 1]
        firsts = [0, *accumulate(batch.counts)]
        self._groups = {
            window: [self._group(batch, group, firsts, window) for group in groups] for window in {kind.window for kind in self._layers}
        }

    def _group(self, batch: Batch, rows: list[int], firsts: list[int], window: int | None) -> _Group:
        device, count, size = batch.positions.device, batch.counts[rows[0]], self._cache.block_size
        tokens = torch.tensor([firsts[i] for i in rows], device=device)[:, None] + torch.arange(count, device=device)
        # Each row's pages from the first that its first token sees.
        seen = [0 if window is None else max(0, batch.starts[i] + 1 - window) // size for i in rows]
        blocks = max(-(-(batch.starts[i] + count) // size) - first for i, first in zip(rows, seen, strict=True))
        first_blocks = torch.tensor(seen, device=device)[:, None]
        # A row that needs fewer than the others is filled up with its own last block. The mask hides that, but a weight of zero times
        # another sequence's NaN would be NaN.
        last_blocks = torch.tensor([(batch.starts[i] + count - 1) // size for i in rows], device=device)[:, None]
        columns = torch.minimum(first_blocks + torch.arange(blocks, device=device), last_blocks)
        tables = self._cache.tables[torch.tensor([batch.slots[i] for i in rows], device=device)[:, None], columns].long()
        keys = (first_blocks * size + torch.arange(blocks * size, device=device))[:, None]
        queries = batch.positions[tokens][..., None]
        mask = keys <= queries
        if window is not None:
            mask &= keys > queries - window
        return _Group(tokens, tables, mask[:, None].repeat(1, 1, self._heads.group, 1))

    def __call__(self, layer: int, qkv: Tensor) -> Tensor:
        heads, kind = self._heads, self._layers[layer]
        rotation = self._rotations[kind.rotation]
        x = qkv.view(len(qkv), -1, heads.dim)
        q, k, v = x[:, : heads.query], x[:, heads.query : -heads.kv], x[:, -heads.kv :]
        keys, values = self._cache.keys[layer], self._cache.values[layer]
        keys[self._pages, :, :, self._offsets] = narrow(_rotate(k, rotation), keys.dtype)
        values[self._pages, :, self._offsets] = narrow(v, values.dtype)
        q = _rotate(q, rotation)
        out = torch.empty_like(q)
        for group in self._groups[kind.window]:
            rows, count = group.tokens.shape
            # Query heads of a group are further queries of one key head: no copies of keys and values for them.
            queries = q[group.tokens].view(rows, count, heads.kv, heads.group, heads.dim).permute(0, 2, 3, 1, 4)
            k = keys[group.tables].permute(0, 2, 1, 4, 3).flatten(2, 3).to(q.dtype)
            v = values[group.tables].transpose(1, 2).flatten(2, 3).to(q.dtype)
            result = F.scaled_dot_product_attention(queries.flatten(2, 3), k, v, attn_mask=group.mask, scale=kind.scale)
            result = result.view(rows, heads.kv, heads.group, count, heads.dim).permute(0, 3, 1, 2, 4)
            out[group.tokens] = result.reshape(rows, count, heads.query, heads.dim)
        return out.flatten(1)


def narrow(x: Tensor, dtype: torch.dtype) -> Tensor:
    """x in `dtype`. A number too large for a half becomes the greatest there is: as infinity it would make nonsense of whoever looks at it,
    or be passed over in silence where its weight is zero. What is infinite already, or NaN, stays so.
    """
    if dtype == torch.float16:
        x = torch.where(x.isinf(), x, x.clamp(-GREATEST_HALF, GREATEST_HALF))
    return x.to(dtype)


def _rotate(x: Tensor, rotation: Rotation) -> Tensor:
    cos, sin = rotation
    turned = torch.cat((x[..., x.shape[-1] // 2 :], x[..., : x.shape[-1] // 2]), -1)
    return (x * cos + turned * sin).to(x.dtype)
