"""What the queue holds and what has come of it, for metrics and autoscaling."""

from dataclasses import dataclass

from headrace.request import Lane
from headrace.state import Fault, State


@dataclass(frozen=True, slots=True)
class Depth:
    """Load of one lane of one model."""

    model: str
    lane: Lane
    queued: int
    """Suspects among them."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How many jobs ended like this."""

    state: State
    fault: Fault | None
    """Of those that FAILED; None: there was something wrong with the request."""
    jobs: int


@dataclass(frozen=True, slots=True)
class Load:
    """The queue as a whole, for metrics and autoscaling."""

    lanes: tuple[Depth, ...]
    running: int
    delayed: int
    cost: int
    """Token cost of all live jobs (prompt + max_tokens, for each choice)."""
    ended: tuple[Ending, ...] = ()
    """Whatever has ended since the store was made, purged jobs among it, but for what functions older than this count ended."""
