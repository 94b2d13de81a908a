"""What happens often, for a log that has a line of it at the first time, and then one a minute with how often."""

from collections.abc import Callable, Hashable

TELL_EVERY_S = 60.0


class Tally:
    def __init__(self, clock: Callable[[], float]) -> None:
        """`clock`: monotonic seconds."""
        self._clock = clock
        self._told_at: dict[Hashable, float] = {}
        self._untold: dict[Hashable, int] = {}

    def count(self, kind: Hashable = None) -> int | None:
        """It happened once more. How often since it was told last, if it is to be told now."""
        now = self._clock()
        count = self._untold[kind] = self._untold.get(kind, 0) + 1
        if now - self._told_at.get(kind, float("-inf")) < TELL_EVERY_S:
            return None
        self._told_at[kind], self._untold[kind] = now, 0
        return count
