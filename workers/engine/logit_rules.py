"""What one request changes about its logits before its tokens are drawn. Torch-free; `shaping.py` applies the rules of a whole batch."""

from collections.abc import Iterable, Set
from typing import Self

import numpy as np
from numpy.typing import NDArray

from headrace.request import Sampling

_FIRST_ROOM = 256


class LogitRules:
    """Only requests that ask for any have them, so the others cost nothing. Grows with the distinct tokens of its request, not with the
    vocabulary: a penalty changes the logits of tokens that came already, and of no others.
    """

    def __init__(self, sampling: Sampling, end_ids: Set[int]) -> None:
        """`end_ids` would end the answer: none of them is chosen before `min_tokens`."""
        self.min_tokens = sampling.min_tokens
        self.banned = np.array(sorted(end_ids), dtype=np.int64)
        self.bias_ids = np.array([token for token, _ in sampling.logit_bias], dtype=np.int64)
        self.bias = np.array([bias for _, bias in sampling.logit_bias], dtype=np.float32)
        self.presence = sampling.presence_penalty
        self.frequency = sampling.frequency_penalty
        self.repetition = sampling.repetition_penalty
        self._places: dict[int, int] = {}
        self._ids = np.empty(_FIRST_ROOM, dtype=np.int64)
        self._counts = np.empty(_FIRST_ROOM, dtype=np.float32)

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

    @property
    def seen(self) -> NDArray[np.int64]:
        """Distinct ids of the tokens generated and, where repetition is penalised, of the prompt."""
        return self._ids[: len(self._places)]

    @property
    def counts(self) -> NDArray[np.float32]:
        """How often each of `seen` was generated."""
        return self._counts[: len(self._places)]

    def add(self, token_id: int) -> None:
        """One token more was generated."""
        if self.penalises:
            self._see(token_id, 1)

    def _see(self, token_id: int, times: int) -> None:
        place = self._places.get(token_id)
        if place is None:
            place = self._places[token_id] = len(self._places)
            if place == len(self._ids):
                self._ids = np.resize(self._ids, 2 * place)
                self._counts = np.resize(self._counts, 2 * place)
            self._ids[place], self._counts[place] = token_id, 0
        self._counts[place] += times
