"""What a caller who was refused for lack of room is told in `Retry-After`."""

from headrace.errors import LONGEST_WAIT_S, SHORTEST_WAIT_S

_SPREAD = 0.25
_LEAST_SPREAD_S = 2.0


def retry_after(wait_s: float, luck: float) -> int:
    """Whole seconds from 1 to 120 for a wait that the queue has measured. `luck`, from 0 to 1 (excluded), spreads callers over a quarter
    of the wait or two seconds: those who were refused together must not come back together."""
    wait_s = min(max(wait_s, SHORTEST_WAIT_S), LONGEST_WAIT_S / (1 + _SPREAD))
    return int(wait_s + luck * max(wait_s * _SPREAD, _LEAST_SPREAD_S))
