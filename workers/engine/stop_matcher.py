"""Stop strings found in text that comes in pieces. Torch-free."""

from collections.abc import Sequence
from typing import NamedTuple


class Passed(NamedTuple):
    text: str
    """Safe to show: no stop string begins in it."""
    stopped: bool
    """A stop string came; `text` ends before it and nothing follows."""


class StopMatcher:
    """Lets text pass, except a tail that may be the beginning of a stop string. Of several matches the one that begins first counts."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""

    def push(self, text: str) -> Passed:
        text = self._held + text
        starts = [start for start in map(text.find, self._stops) if start >= 0]
        if starts:
            self._held = ""
            return Passed(text[: min(starts)], True)
        hold = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - hold :]
        return Passed(text[: len(text) - hold], False)

    def flush(self) -> str:
        """What is held back: the text has ended, so it begins no stop string any more."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that begins `stop`, short of all of it."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)
