"""Both attentions against the definition, written out token by token: scales, windows and rotations by layer, chunks, scattered pages."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import isnan
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from workers.engine.activations import tensor_of
from workers.engine.attention import Attention, Batch, Heads, LayerKind, Rotation, TorchAttention
from workers.engine.cpu import attention as cpu_attention
from workers.engine.cpu.attention import CpuAttention
from workers.engine.kv_cache import KvCache

CPU = torch.device("cpu")
CONTEXT = 64
SHAPES = [(Heads(4, 2, 8), 8), (Heads(5, 1, 12), 4), (Heads(2, 2, 256), 16)]
"""Heads and block size. Few: the kernel is compiled for each."""
KINDS = st.builds(
    LayerKind,
    scale=st.floats(0.01, 0.5),
    window=st.none() | st.integers(1, CONTEXT),
    rotation=st.integers(0, 1),
)


@dataclass
class Sequences:
    """All queries, keys and values of some sequences in advance, (length, heads, dim) each, as they are before rotation."""

    lengths: Sequence[int]
    heads: Heads
    rotations: list[Rotation] = field(default_factory=list)

    def __post_init__(self) -> None:
        generator = torch.Generator().manual_seed(len(self.lengths))
        self.qkv = [torch.randn(n, self.heads.query + 2 * self.heads.kv, self.heads.dim, generator=generator) for n in self.lengths]
        for _ in range(2):
            angles = torch.rand(CONTEXT, self.heads.dim // 2, generator=generator) * 6
            self.rotations.append((angles.cos(), angles.sin()))

    def defined(self, kind: LayerKind) -> list[Tensor]:
        """What each token of each sequence must see: (length, query heads · dim)."""
        return [torch.stack([self._token(x, at, kind) for at in range(len(x))]) for x in self.qkv]

    def _token(self, x: Tensor, at: int, kind: LayerKind) -> Tensor:
        heads, first = self.heads, max(0, at + 1 - (kind.window or CONTEXT))
        turned = self._turn(x, kind.rotation)
        result = []
        for h in range(heads.query):
            k, v = turned[first : at + 1, heads.query + h // heads.group], x[first : at + 1, heads.query + heads.kv + h // heads.group]
            result.append(torch.softmax(k @ turned[at, h] * kind.scale, 0) @ v)
        return torch.cat(result)

    def _turn(self, x: Tensor, rotation: int) -> Tensor:
        cos, sin = (part[: len(x), None] for part in self.rotations[rotation])
        a, b = x.chunk(2, -1)
        return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)


def attend(attention: Attention, qkv: Tensor) -> Tensor:
    return tensor_of(attention(0, qkv if isinstance(attention, TorchAttention) else qkv.numpy()))


def run(
    kind: LayerKind, attention: type[Any], sequences: Sequences, block_size: int, paces: Sequence[int], dtype: torch.dtype
) -> list[Tensor]:
    """The outputs of all tokens, each sequence advancing by its own pace, its pages lying in any order."""
    heads, count, blocks = sequences.heads, len(sequences.lengths), -(-CONTEXT // block_size)
    cache = KvCache(
        layers=1, blocks=blocks * count, block_size=block_size, kv_heads=heads.kv, head_dim=heads.dim,
        slots=count, blocks_per_slot=blocks, device=CPU, dtype=dtype,
    )  # fmt: skip
    order = torch.randperm(blocks * count, generator=torch.Generator().manual_seed(1)).tolist()
    for slot in range(count):
        cache.assign(slot, 0, order[slot * blocks : (slot + 1) * blocks])
    layer, done, parts = attention(cache, heads, [kind]), [0] * count, [torch.empty(0, heads.query * heads.dim)] * count
    while done != list(sequences.lengths):
        rows = [i for i in range(count) if done[i] < sequences.lengths[i]]
        counts = [min(paces[i], sequences.lengths[i] - done[i]) for i in rows]
        positions = torch.cat([torch.arange(done[i], done[i] + n) for i, n in zip(rows, counts, strict=True)])
        batch = Batch(positions, positions, tuple(rows), tuple(done[i] for i in rows), tuple(counts), positions)
        layer.begin(batch, [(cos[positions], sin[positions]) for cos, sin in sequences.rotations])
        qkv = torch.cat([sequences.qkv[i][done[i] : done[i] + n] for i, n in zip(rows, counts, strict=True)])
        outs = torch.split(attend(layer, qkv.flatten(1)), counts)
        for i, n, out in zip(rows, counts, outs, strict=True):
            parts[i] = torch.cat((parts[i], out))
            done[i] += n
    return parts


@pytest.mark.parametrize("attention", [TorchAttention, CpuAttention])
@pytest.mark.parametrize(("heads", "block_size"), SHAPES, ids=str)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float16, 1e-2)], ids=str)
@settings(max_examples=15, deadline=None)
@given(
    kind=KINDS,
    rows=st.lists(st.tuples(st.integers(1, CONTEXT), st.integers(1, 20)), min_size=1, max_size=4),
)
def test_attention_is_what_its_definition_says(
    attention: type[Any],
    heads: Heads,
    block_size: int,
    dtype: torch.dtype,
    tolerance: float,
    kind: LayerKind,
    rows: list[tuple[int, int]],
) -> None:
    lengths, paces = zip(*rows, strict=True)
    sequences = Sequences(lengths, heads)
    for mine, defined in zip(run(kind, attention, sequences, block_size, paces, dtype), sequences.defined(kind), strict=True):
        torch.testing.assert_close(mine, defined, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("attention", [TorchAttention, CpuAttention])
@pytest.mark.parametrize("window", [None, 5])
def test_nonsense_of_one_sequence_does_not_reach_another(attention: type[Any], window: int | None) -> None:
    """The short one's table still names blocks of its slot's earlier owner, which another sequence has by now."""
    heads, size = Heads(4, 2, 8), 8
    cache = KvCache(
        layers=1, blocks=6, block_size=size, kv_heads=heads.kv, head_dim=heads.dim, slots=2, blocks_per_slot=4, device=CPU,
        dtype=torch.float32,
    )  # fmt: skip
    cache.assign(0, 0, [0, 1, 2, 3])
    cache.assign(1, 0, [4, 0, 1, 2])
    layer = attention(cache, heads, [LayerKind(0.3, window)])
    qkv = torch.randn(2, heads.qkv_width, generator=torch.Generator().manual_seed(0))
    still = (torch.ones(2, heads.dim // 2), torch.zeros(2, heads.dim // 2))
    positions = torch.tensor([25, 3])

    def compute() -> Tensor:
        layer.begin(Batch(positions, positions, (0, 1), (25, 3), (1, 1), positions), [still, still])
        return attend(layer, qkv.clone())

    sound = compute()
    cache.clear([0, 1, 2, 3])
    cache.keys[0][:4] = cache.values[0][:4] = torch.nan
    spoilt = compute()
    assert sound.isfinite().all()
    assert spoilt[0].isnan().all()
    assert torch.equal(spoilt[1], sound[1])


@pytest.mark.parametrize("threads", [2, 3, 7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize(("lengths", "window"), [((64, 40, 1, 9, 33), None), ((64, 40, 1, 9, 33), 11), ((2,), None)])
def test_attention_is_the_same_for_any_number_of_threads(
    threads: int, dtype: torch.dtype, lengths: tuple[int, ...], window: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shares end within a sequence, and between the heads of a tile; where there is little to do some threads have none."""
    sequences, kind = Sequences(lengths, Heads(4, 2, 8)), LayerKind(0.3, window)

    def compute(threads: int) -> list[Tensor]:
        monkeypatch.setattr(cpu_attention, "THREADS", threads)
        return run(kind, CpuAttention, sequences, 8, [20] * len(lengths), dtype)

    for split, whole in zip(compute(threads), compute(1), strict=True):
        assert torch.equal(split, whole)


@pytest.mark.parametrize("attention", [TorchAttention, CpuAttention])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("part", ["query", "key", "value"])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_what_is_no_number_is_seen_by_whoever_looks_at_it(attention: type[Any], dtype: torch.dtype, part: str, bad: float) -> None:
    sequences, heads = Sequences((20,), Heads(4, 2, 8)), Heads(4, 2, 8)
    place = {"query": 0, "key": heads.query, "value": heads.query + heads.kv}[part]
    sequences.qkv[0][5, place, 3] = bad
    [out] = run(LayerKind(0.3), attention, sequences, 8, [7], dtype)
    assert not out[5].isfinite().all()
    if part == "value" or (part == "key" and isnan(bad)):  # a score of -inf is a weight of zero
        assert not out[5:].isfinite().all(1).any()


@pytest.mark.parametrize("attention", [TorchAttention, CpuAttention])
@pytest.mark.parametrize("part", ["key", "value"])
@pytest.mark.parametrize("large", [65_519.0, 65_520.0, 1e5, -7e4, 3e38, -3e38])
def test_what_no_half_can_hold_is_the_greatest_half(attention: type[Any], part: str, large: float) -> None:
    """Not infinity, which would make nonsense of every row that sees it, or fall out in silence where its weight is zero."""
    heads = Heads(4, 2, 8)
    results = []
    for number in (large, 65_504.0 if large > 0 else -65_504.0):
        sequences = Sequences((20,), heads)
        sequences.rotations = [(torch.ones(CONTEXT, heads.dim // 2), torch.zeros(CONTEXT, heads.dim // 2))] * 2
        sequences.qkv[0][5, heads.query + (heads.kv if part == "value" else 0), 3] = number
        results += run(LayerKind(0.3), attention, sequences, 8, [7], torch.float16)
    assert results[0].isfinite().all()
    assert torch.equal(results[0], results[1])
