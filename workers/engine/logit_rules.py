"""What one request changes about its logits before its tokens are drawn. Torch-free; `shaping.py` applies the rules of a whole batch."""

from array import array
from collections.abc import Iterable, Set
from typing import Self

from headrace.request import Sampling


class LogitRules:
    """Only requests that ask for any have them, so the others cost nothing. Grows with the distinct tokens of its request, not with the
    vocabulary: a penalty changes the logits of tokens that came already, and of no others.

    Arrays are of int64 and float32, to be handed on as they lie.
    """

    def __init__(self, sampling: Sampling, end_ids: Set[int]) -> None:
        """`end_ids` would end the answer: none of them is chosen before `min_tokens`."""
        self.min_tokens = sampling.min_tokens
        self.banned = array("q", sorted(end_ids))
        self.bias_ids = array("q", [token for token, _ in sampling.logit_bias])
        self.bias = array("f", [bias for _, bias in sampling.logit_bias])
        self.presence = sampling.presence_penalty
        self.frequency = sampling.frequency_penalty
        self.repetition = sampling.repetition_penalty
        self.seen = array("q")
        """Distinct ids of the tokens generated and, where repetition is penalised, of the prompt."""
        self.counts = array("f")
        """How often each of `seen` was generated."""
        self._places: dict[int, int] = {}

    @classmethod
    def of(cls, sampling: Sampling, end_ids: Set[int], *, prompt_ids: Iterable[int], generated_ids: Iterable[int]) -> Self | None:
        """None if the request asks for nothing of it."""
        rules = cls(sampling, end_ids)
        if not (rules.min_tokens or sampling.logit_bias or rules.penalises):
            return None
        if rules.repetition != 1.0:
            for token in prompt_ids:
                rules._see(token, 0)
        for token in generated_ids:
            rules.add(token)
        return rules

    @property
    def penalises(self) -> bool:
        return self.presence != 0.0 or self.frequency != 0.0 or self.repetition != 1.0

    def add(self, token_id: int) -> None:
        """One token more was generated."""
        if self.penalises:
            self._see(token_id, 1)

    def _see(self, token_id: int, times: int) -> None:
        place = self._places.setdefault(token_id, len(self._places))
        if place == len(self.seen):
            self.seen.append(token_id)
            self.counts.append(0)
        self.counts[place] += times
