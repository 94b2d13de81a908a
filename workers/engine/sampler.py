"""Choosing the next token of every row of a batch at once.

A draw is a function of (logits, seed, choice, position) only: its uniform number comes from a counter-based generator, not from a state
that the rows of a batch would share. So a row draws the same alone, in any batch, and in a resumed run, as far as its logits are the same
bits.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from headrace.request import Sampling
from workers.engine.kernels import has_kernels
from workers.engine.logit_rules import LogitRules
from workers.engine.shaping import Ruled, shape

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_CANDIDATES = 1024
"""Most likely tokens that a truncated row is searched in first; sorting a whole vocabulary takes longer than the rest of a step."""


@dataclass(frozen=True, slots=True)
class Draw:
    """How one row is sampled. `position`: how many tokens its request has generated."""

    sampling: Sampling
    position: int
    choice: int = 0
    rules: LogitRules | None = None


def sample(logits: Tensor, draws: Sequence[Draw]) -> list[int | None]:
    """The next token of each row of `logits` (S, vocab) float32; None where a row's logits are not numbers.

    Changes the rows that have rules in place, and no others.
    """
    if ruled := [Ruled(i, draw.rules, draw.position) for i, draw in enumerate(draws) if draw.rules is not None]:
        shape(logits, ruled)
    ids, sound = _greedy(logits)
    rows = [i for i, draw in enumerate(draws) if draw.sampling.temperature > 0 and sound[i]]
    # Each kind of row has a way of its own, so that no row's draw depends on what its neighbours ask for.
    whole = [i for i in rows if not _truncates(draws[i].sampling)]
    cut = [i for i in rows if _truncates(draws[i].sampling)]
    if whole:
        drawn = _draw(_probabilities(logits[whole], [draws[i] for i in whole]), _uniforms([draws[i] for i in whole], logits.device))
        ids = _replace(ids, whole, drawn)
    if cut:
        ids = _replace(ids, cut, _sample_truncated(logits[cut], [draws[i] for i in cut]))
    return [token if ok else None for token, ok in zip(ids, sound, strict=True)]


def _greedy(logits: Tensor) -> tuple[list[int], list[bool]]:
    """The likeliest token of each row, and whether the row's logits are numbers."""
    if has_kernels(logits.device, logits.dtype):
        from workers.engine.cpu.rows import greatest  # numba takes a while to import and is of use on CPUs only

        places, finite = greatest(logits.numpy())
        return places.tolist(), finite.tolist()
    top, ids = logits.max(dim=-1)
    return ids.tolist(), torch.isfinite(top).tolist()


def uniform(seed: int, choice: int, position: int) -> float:
    """A number in [0, 1) for one draw: splitmix64's finalizer (Steele, Lea and Flood, 2014) over the three in turn."""
    state = 0
    for value in (seed, choice, position):
        state = _mix((state + value * _GOLDEN + _GOLDEN) & _MASK)
    return (state >> 11) * 2.0**-53


def _mix(z: int) -> int:
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return z ^ (z >> 31)


def _truncates(sampling: Sampling) -> bool:
    return sampling.top_k > 0 or sampling.top_p < 1.0 or sampling.min_p > 0.0


def _replace(ids: list[int], rows: list[int], drawn: Tensor) -> list[int]:
    new = dict(zip(rows, drawn.tolist(), strict=True))
    return [new.get(i, token) for i, token in enumerate(ids)]


def _probabilities(logits: Tensor, draws: Sequence[Draw]) -> Tensor:
    # A temperature near 0 must not overflow: the largest logit becomes 0 before it is divided.
    temperature = torch.tensor([max(draw.sampling.temperature, 1e-6) for draw in draws], device=logits.device)[:, None]
    return torch.softmax((logits - logits.amax(-1, keepdim=True)) / temperature, dim=-1)


def _uniforms(draws: Sequence[Draw], device: torch.device) -> Tensor:
    # float32 on devices without float64; its 24 bits only coarsen the draw.
    dtype = torch.float32 if device.type == "mps" else torch.float64
    return torch.tensor([uniform(d.sampling.seed, d.choice, d.position) for d in draws], dtype=dtype, device=device)


def _sample_truncated(logits: Tensor, draws: Sequence[Draw]) -> Tensor:
    """Top-k, then top-p of what is left, then min-p, then a draw among the survivors in order of their probability."""
    probabilities = _probabilities(logits, draws)
    vocab = logits.shape[-1]
    bounds = _Bounds(
        torch.tensor([d.sampling.top_k if 0 < d.sampling.top_k < vocab else vocab for d in draws], device=logits.device)[:, None],
        torch.tensor([d.sampling.top_p for d in draws], device=logits.device)[:, None],
        torch.tensor([d.sampling.min_p for d in draws], device=logits.device)[:, None],
    )
    uniforms = _uniforms(draws, logits.device)
    ids, enough = _nucleus(probabilities, bounds, uniforms, min(_CANDIDATES, vocab))
    if not enough.all():
        # Flat distributions: rare, so only these rows pay for a full sort.
        rest = ~enough
        ids[rest], _ = _nucleus(probabilities[rest], bounds.of(rest), uniforms[rest], vocab)
    return ids


class _Bounds(NamedTuple):
    """Of each row, as columns (R, 1)."""

    top_k: Tensor
    """The whole vocabulary where it is off."""
    top_p: Tensor
    min_p: Tensor

    def of(self, rows: Tensor) -> "_Bounds":
        return _Bounds(self.top_k[rows], self.top_p[rows], self.min_p[rows])


def _nucleus(probabilities: Tensor, bounds: _Bounds, uniforms: Tensor, candidates: int) -> tuple[Tensor, Tensor]:
    """Draws among the `candidates` most likely tokens. Also tells for which rows these hold all that the bounds let through."""
    vocab = probabilities.shape[-1]
    top_k, top_p, min_p = bounds
    values, indices = probabilities.topk(candidates, dim=-1)
    values = values.to(uniforms.dtype)
    places = torch.arange(candidates, device=values.device)
    in_k = places < top_k
    # What top_p is a share of: the mass of the top k, which is all where top_k is off.
    mass = torch.where(top_k[:, 0] < vocab, (values * in_k).sum(-1), torch.ones_like(uniforms))[:, None]
    before = values.cumsum(-1) - values
    kept = in_k & (before < top_p * mass) & (values >= min_p * values[:, :1]) | (places == 0)  # the most likely token always stays
    enough = (top_k[:, 0] <= candidates) | ((top_k[:, 0] == vocab) & ~kept[:, -1])
    place = _draw(values * kept, uniforms)
    return indices.gather(-1, place[:, None])[:, 0], enough


def _draw(weights: Tensor, uniforms: Tensor) -> Tensor:
    """Inverse of the cumulative distribution: for each row the first place whose cumulative weight exceeds uniform · total."""
    cumulative = weights.to(uniforms.dtype).cumsum(-1)
    target = uniforms[:, None] * cumulative[:, -1:]
    # A place of no weight is never the first to exceed; rounding could only point behind the last.
    last = (cumulative < cumulative[:, -1:]).sum(-1)
    return torch.minimum(torch.searchsorted(cumulative, target, right=True)[:, 0], last)
