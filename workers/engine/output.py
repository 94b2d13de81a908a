"""What a request has generated so far, as its client sees it. Torch-free.

A function of the generated ids alone: feeding it the ids of an earlier run brings it to exactly the state that run was in.
"""

from collections.abc import Iterable, Set
from typing import NamedTuple

from headrace.request import Sampling
from workers.engine.detokenizer import Decoder, Detokenizer
from workers.engine.stop_matcher import StopMatcher
from workers.ports import FinishReason


class Shown(NamedTuple):
    text: str
    """Becomes visible with this token."""
    finish: FinishReason | None


class Output:
    def __init__(self, sampling: Sampling, tokenizer: Decoder, eos_ids: Set[int]) -> None:
        self._max_tokens = sampling.max_tokens
        self._eos_ids = frozenset() if sampling.ignore_eos else frozenset(eos_ids)
        self._detokenizer = Detokenizer(tokenizer)
        self._stops = StopMatcher(sampling.stop)
        self._count = 0

    def replay(self, token_ids: Iterable[int]) -> FinishReason | None:
        """Tokens of an earlier run, whose text is with the client. Returns how they ended, if they did. Raises TokenizerFailed."""
        return next((shown.finish for shown in map(self.add, token_ids) if shown.finish), None)

    def add(self, token_id: int) -> Shown:
        """One generated token. With the last one comes all text held back till then. Raises TokenizerFailed."""
        self._count += 1
        ended = token_id in self._eos_ids
        text, stopped = self._stops.push("" if ended else self._detokenizer.add(token_id))
        if stopped:
            return Shown(text, FinishReason.STOP)
        if not ended and self._count < self._max_tokens:
            return Shown(text, None)
        rest, stopped = self._stops.push(self._detokenizer.flush())
        text += rest if stopped else rest + self._stops.flush()
        return Shown(text, FinishReason.STOP if ended or stopped else FinishReason.LENGTH)
