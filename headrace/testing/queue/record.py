"""A job as `memory.py` keeps it."""

from bisect import bisect_left
from dataclasses import dataclass, field
from typing import NamedTuple

from headrace.cursor import LogPosition
from headrace.job import Job, LogEntry
from headrace.ports import Append, Claim, Verdict
from headrace.queues import rules
from headrace.request import Lane, decode_request
from headrace.state import TERMINAL, State


class Place(NamedTuple):
    """A job's place in its tenant's queue; a job that is requeued returns to it."""

    arrival: int
    job_id: str


class Ended(NamedTuple):
    """An outbox entry."""

    ended_ms: int
    job_id: str
    tenant: str
    state: State
    reason: str


@dataclass(slots=True)
class Record:
    """Times are ms of the store's clock, as are the dues: None keeps the job out of that sweep."""

    place: Place
    body: bytes
    body_hash: str
    key: tuple[str, str] | None
    """(tenant, idempotency key)."""
    tenant: str
    model: str
    lane: Lane
    room: int
    cost: int
    accepted_ms: int
    deadline_ms: int
    state: State = State.QUEUED
    reason: str = ""
    epoch: int = 0
    released: int = 0
    """The epoch last given back by its owner."""
    worker: str = ""
    committed: int = 0
    committed_at_claim: int = 0
    cached_tokens: int | None = None
    crashes: int = 0
    expiries: int = 0
    cancel: str = ""
    """Why a running job should stop."""
    started_ms: int | None = None
    ended_ms: int | None = None
    lease_due: int | None = None
    delay_due: int | None = None
    viewer_due: int | None = None
    withheld_due: int | None = None
    """It waits to be admitted until then."""
    log: list[LogEntry] = field(default_factory=list)

    @property
    def id(self) -> str:
        return self.place.job_id

    @property
    def ended(self) -> bool:
        return self.state in TERMINAL

    @property
    def withheld(self) -> bool:
        return self.withheld_due is not None

    @property
    def deadline_due(self) -> int | None:
        return self.deadline_ms if self.state in (State.QUEUED, State.DELAYED) else None

    @property
    def suspect(self) -> bool:
        return rules.is_suspect(self.crashes, self.expiries)

    def forgive(self) -> None:
        """Progress under the lease that ends now wipes out what the leases before it have left."""
        if self.committed > self.committed_at_claim:
            self.crashes = self.expiries = 0

    def advice(self, now: int) -> Verdict:
        """What the holder is told with every success."""
        if self.cancel:
            return Verdict.CANCEL
        return Verdict.EXPIRE if self.deadline_ms <= now else Verdict.OK

    def write(self, append: Append) -> bool:
        """Put the tokens into the log, or find exactly them there. False: the caller disagrees with the log."""
        position = LogPosition(append.epoch, append.start + len(append.token_ids))
        entry = LogEntry(
            position=position,
            choice=append.choice,
            token_ids=append.token_ids,
            text=append.text,
            logprobs=append.logprobs,
            prompt_logprobs=append.prompt_logprobs,
        )
        if append.start != self.committed:
            return entry in self.log
        self.log.append(entry)
        self.committed = position.n
        if self.cached_tokens is None:
            self.cached_tokens = append.cached_tokens
        return True

    def behind(self, after: LogPosition, limit: int) -> list[LogEntry]:
        start = bisect_left(self.log, (after.epoch, after.n + 1), key=lambda entry: entry.position)
        return self.log[start : start + limit]

    def claim(self) -> Claim:
        return Claim(request=decode_request(self.body), epoch=self.epoch, committed=self.committed)

    def view(self) -> Job:
        return Job(
            request=decode_request(self.body),
            state=self.state,
            reason=self.reason,
            epoch=self.epoch,
            committed=self.committed,
            crashes=self.crashes,
            cancel_requested=bool(self.cancel),
            accepted_ms=self.accepted_ms,
            started_ms=self.started_ms,
            ended_ms=self.ended_ms,
            deadline_ms=self.deadline_ms,
        )
