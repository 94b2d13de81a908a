"""What is live in a part of the queue, how fast it leaves, and what that means for whoever finds it full.

Every shard has one meter for all its jobs and one for each tenant that has live ones. `functions.lua` keeps the same numbers.
"""

from dataclasses import dataclass
from typing import NamedTuple

from headrace.errors import LONGEST_WAIT_S, SHORTEST_WAIT_S

BUCKET_MS = 30_000
"""What left is counted in two buckets of this length: long enough for a rate to be steady, short enough to notice that workers died."""


class Drained(NamedTuple):
    """Jobs that ended in the last `span_ms`, and their token cost."""

    jobs: int
    cost: int
    span_ms: int


_NOTHING = Drained(0, 0, 0)


@dataclass(slots=True)
class Meter:
    """Live jobs with their token cost, and those that left in this bucket and in the one before it."""

    live: int = 0
    cost: int = 0
    _since: int = 0
    """Start of this bucket."""
    _left: int = 0
    _freed: int = 0
    _before: Drained = _NOTHING

    def enter(self, cost: int, now: int) -> None:
        if self.live == 0:
            # Idle time would count as time in which nothing could leave.
            self._begin(now, _NOTHING)
        self.live += 1
        self.cost += cost

    def leave(self, cost: int, now: int) -> None:
        age = now - self._since
        if BUCKET_MS <= age < 2 * BUCKET_MS:
            self._begin(now, Drained(self._left, self._freed, age))
        elif not 0 <= age < BUCKET_MS:
            # After a standstill the rate before it says nothing; nor does one across a clock that was set back.
            self._begin(now, _NOTHING)
        self._left += 1
        self._freed += cost
        self.live -= 1
        self.cost -= cost

    def drained(self, now: int) -> Drained:
        """What left lately, over the time since when it is known."""
        age = max(0, now - self._since)
        if age < BUCKET_MS:
            return Drained(self._before.jobs + self._left, self._before.cost + self._freed, self._before.span_ms + age)
        return Drained(self._left, self._freed, age) if age < 2 * BUCKET_MS else Drained(0, 0, age)

    def _begin(self, now: int, before: Drained) -> None:
        self._since, self._left, self._freed, self._before = now, 0, 0, before


def wait_s(needed: int, drained: int, span_ms: int) -> float:
    """Seconds until `needed` has left, if it goes on leaving as in the last `span_ms`, when `drained` left; from 1 to 120.

    If nothing left, the best guess is that it takes as long again.
    """
    span_s = max(span_ms, 1_000) / 1_000
    return min(max(span_s * needed / drained if drained else span_s, SHORTEST_WAIT_S), LONGEST_WAIT_S)
