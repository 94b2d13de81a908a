"""What a caller who was refused for lack of room is told in `Retry-After`."""

_SHORTEST_S, _LONGEST_S = 1.0, 120.0
"""The official client gives up at once when it is told to wait longer."""
_SPREAD = 0.25
_LEAST_SPREAD_S = 2.0


def retry_after(wait_s: float, luck: float) -> int:
    """Whole seconds from 1 to 120 for a wait that the queue has measured. `luck`, from 0 to 1 (excluded), spreads callers over a quarter
    of the wait or two seconds: those who were refused together must not come back together."""
    wait_s = min(max(wait_s, _SHORTEST_S), _LONGEST_S / (1 + _SPREAD))
    return int(wait_s + luck * max(wait_s * _SPREAD, _LEAST_SPREAD_S))
