"""The rules of a batch's rows, applied to their logits at once."""

from array import array
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from workers.engine.logit_rules import LogitRules


class Ruled(NamedTuple):
    """A row of the logits that has rules. `position`: how many tokens its request has generated."""

    row: int
    rules: LogitRules
    position: int


def shape(logits: Tensor, ruled: Sequence[Ruled]) -> None:
    """Changes `logits` (S, vocab) in place: penalties, then biases, then the ban on what would end an answer too soon.

    Repetition is penalised as by Keskar et al. (CTRL, 2019), for the prompt's tokens too; presence and frequency as OpenAI defines them,
    for generated tokens alone. No place is changed twice in one of the steps, so the result does not depend on the order of the rows.
    """
    _penalise(logits, [one for one in ruled if one.rules.penalises and len(one.rules.seen)])
    biased = [one for one in ruled if len(one.rules.bias)]
    if biased:
        at = _places(logits, biased, [one.rules.bias_ids for one in biased])
        logits[at] += _tensor(logits, [one.rules.bias for one in biased])
    banned = [one for one in ruled if one.position < one.rules.min_tokens and len(one.rules.banned)]
    if banned:
        logits[_places(logits, banned, [one.rules.banned for one in banned])] = float("-inf")


def _penalise(logits: Tensor, ruled: Sequence[Ruled]) -> None:
    if not ruled:
        return
    at = _places(logits, ruled, [one.rules.seen for one in ruled])
    counts = _tensor(logits, [one.rules.counts for one in ruled])
    lengths = [len(one.rules.seen) for one in ruled]
    repetition, frequency, presence = (
        _tensor(logits, [np.repeat(np.array(values, dtype=np.float32), lengths)])
        for values in zip(*((one.rules.repetition, one.rules.frequency, one.rules.presence) for one in ruled), strict=True)
    )
    values = logits[at]
    values = torch.where(values > 0, values / repetition, values * repetition)
    logits[at] = values - frequency * counts - presence * (counts > 0)


def _places(logits: Tensor, ruled: Sequence[Ruled], ids: Sequence["array[int]"]) -> tuple[Tensor, Tensor]:
    """Row and column of each of the ids."""
    rows = np.repeat(np.array([one.row for one in ruled], dtype=np.int64), [len(some) for some in ids])
    return torch.from_numpy(rows).to(logits.device), torch.from_numpy(np.concatenate(ids)).to(logits.device)


def _tensor(logits: Tensor, parts: Sequence["array[float] | NDArray[np.float32]"]) -> Tensor:
    return torch.from_numpy(np.concatenate(parts)).to(logits.device, logits.dtype)
