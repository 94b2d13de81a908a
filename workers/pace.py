"""Whether steps take far longer than this machine needs for them."""

import statistics
from collections import defaultdict, deque

STEPS = 50
"""A median of so many is no hiccup."""
TIMES = 4
"""As long as the best median is far longer: what a step costs varies by less for steps that are alike."""

Kind = tuple[int, int]


class Pace:
    """Compares steps that are alike: as many tokens, behind as many in the cache, each to the next power of two."""

    def __init__(self) -> None:
        self._seconds: dict[Kind, deque[float]] = defaultdict(lambda: deque(maxlen=STEPS))
        self._best: dict[Kind, float] = {}

    def lags(self, *, tokens: int, cached: int, seconds: float) -> float | None:
        """Of one more step of `tokens` rows behind `cached` tokens: how many times the best median of its kind the median now is, if more
        than TIMES."""
        kind = tokens.bit_length(), cached.bit_length()
        last = self._seconds[kind]
        last.append(seconds)
        if len(last) < STEPS:
            return None
        median = statistics.median(last)
        best = self._best[kind] = min(median, self._best.get(kind, median))
        return median / best if median > TIMES * best else None
