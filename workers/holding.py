"""What a worker holds, and what it has yet to tell its engine."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from headrace.job import LogEntry
from headrace.ports import Append, Finish, Held
from headrace.request import Request
from headrace.state import State
from workers.ports import Capacity, Delta, EngineRequest, FinishReason


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
    ends: dict[int, FinishReason] = field(default_factory=dict)
    """How each choice has ended that has. Not in the log: the engine finds it again from a choice's tokens."""

    @property
    def run_id(self) -> str:
        """A job that was fenced and claimed again is another run, so a delta of the old one fits nothing."""
        return f"{self.request.id}@{self.epoch}"

    @property
    def sequence_ids(self) -> list[str]:
        """The engine's names for its choices."""
        return [f"{self.run_id}.{choice}" for choice in range(self.request.sampling.n)]

    @property
    def held(self) -> Held:
        return Held(self.request.id, self.epoch)

    @property
    def progressed(self) -> bool:
        return self.committed > self.resumed_at

    def engine_requests(self, log: Sequence[LogEntry], priority: int) -> list[EngineRequest]:
        """One for each choice, to go on behind its own tokens in the log."""
        return [
            EngineRequest(
                request_id=sequence_id,
                prompt_ids=self.request.prompt_ids,
                sampling=self.request.sampling,
                committed_ids=tuple(token for entry in log if entry.choice == choice for token in entry.token_ids),
                priority=priority,
                choice=choice,
                tenant=self.request.tenant,
            )
            for choice, sequence_id in enumerate(self.sequence_ids)
        ]

    def appends(self, deltas: Sequence[Delta]) -> list[Append]:
        """What one step added to its choices, one behind the other."""
        appends, start = [], self.committed
        for delta in deltas:
            append = Append(
                job_id=self.request.id,
                epoch=self.epoch,
                start=start,
                token_ids=delta.token_ids,
                text=delta.text,
                choice=choice_of(delta),
                logprobs=delta.logprobs,
                prompt_logprobs=delta.prompt_logprobs,
                # The others wait for the first one's prompt and find all of it: what that spared is no news to whoever asked for several.
                cached_tokens=delta.cached_tokens if choice_of(delta) == 0 else None,
            )
            appends.append(append)
            start += len(append.token_ids)
        return appends

    @property
    def done(self) -> bool:
        return len(self.ends) == self.request.sampling.n

    @property
    def reason(self) -> str:
        """Once it is `done`: the finish reasons in the order of the choices."""
        return ",".join(self.ends[choice] for choice in sorted(self.ends))

    def end(self, state: State, reason: str) -> Finish:
        return Finish(job_id=self.request.id, epoch=self.epoch, committed=self.committed, state=state, reason=reason)


@dataclass(slots=True)
class Orders:
    """What the engine is to be told at the start of its next step."""

    add: list[EngineRequest] = field(default_factory=list)
    abort: list[str] = field(default_factory=list)


def run_of(delta: Delta) -> str:
    """The `run_id` of the holding whose choice it is about."""
    return delta.request_id.rpartition(".")[0]


def choice_of(delta: Delta) -> int:
    return int(delta.request_id.rpartition(".")[2])


def room_left(capacity: Capacity, ordered: Sequence[EngineRequest]) -> Capacity:
    """What of the engine's room remains once it has been given what is already ordered."""
    tokens = sum(len(request.prompt_ids) + len(request.committed_ids) for request in ordered)
    return Capacity(capacity.requests - len(ordered), capacity.tokens - tokens)
