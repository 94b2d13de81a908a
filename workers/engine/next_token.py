"""The next token of every row of a batch, with its log-probabilities where they are asked for."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from headrace.logprobs import Logprobs
from headrace.request import MAX_TOP_LOGPROBS
from workers.engine.sampler import Draw, sample

UNLIKELY = -9999.0
"""Told for a token of no probability, or of none that is a number: JSON has neither infinity nor NaN."""
_SLICE = 64
"""Rows whose distributions are held at once, beside the logits themselves."""


class NextToken(NamedTuple):
    id: int
    logprobs: Logprobs | None
    """Set if the row asks for them."""


def next_tokens(logits: Tensor, draws: Sequence[Draw]) -> list[NextToken | None]:
    """As `sample`, which may change `logits` (S, vocab) in place. Log-probabilities are of the logits as they come."""
    asking = [i for i, draw in enumerate(draws) if draw.sampling.logprobs is not None]
    if not asking:
        return [None if token is None else NextToken(token, None) for token in sample(logits, draws)]
    raw = logits[asking]
    ids = sample(logits, draws)
    tops = [draws[i].sampling.logprobs or 0 for i in asking]
    told = dict(zip(asking, tell(raw, [ids[i] or 0 for i in asking], tops), strict=True))
    return [None if token is None else NextToken(token, told.get(i)) for i, token in enumerate(ids)]


def tell(logits: Tensor, ids: Sequence[int], tops: Sequence[int]) -> list[Logprobs]:
    """The log-probability of `ids[i]` in row i of `logits` (R, vocab), and the `tops[i]` likeliest tokens there with theirs.

    As many as any row may ask for are looked up for each: which of two equally likely ones comes first must not depend on other rows.
    """
    told: list[Logprobs] = []
    for start in range(0, len(ids), _SLICE):
        part = slice(start, start + _SLICE)
        told += _tell(torch.log_softmax(logits[part], dim=-1), ids[part], tops[part])
    return told


def _tell(logprobs: Tensor, ids: Sequence[int], tops: Sequence[int]) -> list[Logprobs]:
    chosen: list[float] = logprobs.gather(-1, torch.tensor(ids, device=logprobs.device)[:, None])[:, 0].tolist()
    if not any(tops):
        return [Logprobs(_readable(one)) for one in chosen]
    values, places = logprobs.topk(min(MAX_TOP_LOGPROBS, logprobs.shape[-1]), dim=-1)
    return [
        Logprobs(_readable(own), tuple((token, _readable(value)) for token, value in zip(tokens[:top], row[:top], strict=True)))
        for own, top, tokens, row in zip(chosen, tops, places.tolist(), values.tolist(), strict=True)
    ]


def _readable(logprob: float) -> float:
    """Six places are what float32 holds; more would only fill the log."""
    return round(max(UNLIKELY, logprob), 6)  # in this order NaN, which JSON has not either, is as unlikely
