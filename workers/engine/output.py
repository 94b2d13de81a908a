"""What a request has generated so far, as its client sees it. Torch-free.

A function of the generated ids alone: feeding it the ids of an earlier run brings it to exactly the state that run was in.
"""

from collections.abc import Iterable, Set
from typing import NamedTuple

from headrace.request import Sampling
from workers.engine.detokenizer import Decoder, Detokenizer
from workers.engine.stop_matcher import StopMatcher
from workers.ports import FinishReason


def end_ids_of(sampling: Sampling, eos_ids: Set[int]) -> frozenset[int]:
    """The tokens that end a request's answer: the model's own, unless it ignores them, and its stop tokens."""
    return frozenset(sampling.stop_token_ids) | (frozenset() if sampling.ignore_eos else eos_ids)


class Shown(NamedTuple):
    text: str
    """Becomes visible with this token."""
    finish: FinishReason | None


class Output:
    def __init__(self, sampling: Sampling, tokenizer: Decoder, end_ids: Set[int]) -> None:
        """`end_ids` end it and are not shown: see `end_ids_of`."""
        self._max_tokens = sampling.max_tokens
        self._end_ids = end_ids
        self._detokenizer = Detokenizer(tokenizer)
        self._stops = StopMatcher(sampling.stop)
        self._count = 0

    def replay(self, token_ids: Iterable[int]) -> FinishReason | None:
        """Tokens of an earlier run, whose text is with the client. Returns how they ended, if they did. Raises TokenizerFailed."""
        return next((shown.finish for shown in map(self.add, token_ids) if shown.finish), None)

    def add(self, token_id: int) -> Shown:
        """One generated token. With the last one comes all text held back till then. Raises TokenizerFailed."""
        self._count += 1
        ended = token_id in self._end_ids
        text, stopped = self._stops.push("" if ended else self._detokenizer.add(token_id))
        if stopped:
            return Shown(text, FinishReason.STOP)
        if not ended and self._count < self._max_tokens:
            return Shown(text, None)
        rest, stopped = self._stops.push(self._detokenizer.flush())
        text += rest if stopped else rest + self._stops.flush()
        return Shown(text, FinishReason.STOP if ended or stopped else FinishReason.LENGTH)
