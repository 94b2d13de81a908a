"""What a worker holds, and what it has yet to tell its engine."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from headrace.ports import Finish, Held
from headrace.request import Request
from headrace.state import State
from workers.ports import Capacity, EngineRequest


@dataclass(slots=True)
class Holding:
    """A job this worker holds under one epoch. `committed` is what the store has confirmed."""

    request: Request
    epoch: int
    committed: int
    resumed_at: int
    """`committed` when it was claimed."""
    suspect: bool
    """It may have taken other workers down."""

    @property
    def run_id(self) -> str:
        """The engine's name for it. A job that was fenced and claimed again is another run, so a delta of the old one fits nothing."""
        return f"{self.request.id}@{self.epoch}"

    @property
    def held(self) -> Held:
        return Held(self.request.id, self.epoch)

    @property
    def progressed(self) -> bool:
        return self.committed > self.resumed_at

    def end(self, state: State, reason: str) -> Finish:
        return Finish(job_id=self.request.id, epoch=self.epoch, committed=self.committed, state=state, reason=reason)


@dataclass(slots=True)
class Orders:
    """What the engine is to be told at the start of its next step."""

    add: list[EngineRequest] = field(default_factory=list)
    abort: list[str] = field(default_factory=list)


def room_left(capacity: Capacity, ordered: Sequence[EngineRequest]) -> Capacity:
    """What of the engine's room remains once it has been given what is already ordered."""
    tokens = sum(len(request.prompt_ids) + len(request.committed_ids) for request in ordered)
    return Capacity(capacity.requests - len(ordered), capacity.tokens - tokens)
