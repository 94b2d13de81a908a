"""How requests get into the queue in memory: at once, or withheld until a log has them. And what the whole queue is made of."""

import time
from collections import Counter, deque
from collections.abc import Callable

from headrace.cursor import GENERATION_EPOCHS
from headrace.death import Death
from headrace.ports import Accepted, Reserved, Submission
from headrace.queues import rules
from headrace.queues.bell import Bells
from headrace.queues.rules import QueueLimits
from headrace.request import encode_request
from headrace.state import Fault, State
from headrace.testing.queue.claims import ClaimMemory
from headrace.testing.queue.meters import Meters
from headrace.testing.queue.record import Ended, Place, Record
from headrace.testing.queue.reports import Reports
from headrace.testing.queue.waiting import Waiting


def unix_ms() -> int:
    return time.time_ns() // 1_000_000


class MemoryIntake:
    """Implements Intake, and `accept` of JobQueue."""

    def __init__(self, *, clock: Callable[[], int] = unix_ms, limits: QueueLimits | None = None) -> None:
        self.outbox: deque[Ended] = deque()
        self._clock = clock
        self._limits = limits or QueueLimits()
        self._jobs: dict[str, Record] = {}
        self._keys: dict[tuple[str, str], str] = {}
        self._tombs: dict[str, tuple[str, int]] = {}
        self._waiting = Waiting()
        self._claims = ClaimMemory()
        self._reports = Reports()
        self._log_bells, self._work_bells = Bells(), Bells()
        self._last_arrival = 0
        self._swept_ms: int | None = None
        self._deaths: list[Death] = []
        self._meters = Meters()
        self._endings: Counter[tuple[State, Fault | None]] = Counter()
        self._generation = 0

    @property
    def shards(self) -> int:
        return 1

    async def accept(self, submission: Submission) -> Accepted:
        first = self._known(submission)
        if first is not None:
            self._release_withheld(first, submission)
            return Accepted(first, replayed=True)
        self._let_in(self._store(submission, of_tenant=True), submission)
        return Accepted(submission.request.id, replayed=False)

    async def reserve(self, submission: Submission) -> Reserved:
        first = self._known(submission)
        if first is not None:
            job = self._jobs.get(first)
            return Reserved(first, withheld=job is not None and job.withheld)
        job = self._store(submission, of_tenant=True)
        job.withheld_due = job.accepted_ms + self._limits.reservation_ms
        return Reserved(job.id, withheld=True)

    async def admit(self, submission: Submission) -> Accepted:
        job_id = submission.request.id
        rules.check_request(submission.request, self.shards)
        if self._release_withheld(job_id, submission):
            return Accepted(job_id, replayed=False)
        if job_id in self._jobs or self._tomb(job_id) is not None:
            return Accepted(job_id, replayed=True)
        if (first := self._known(submission)) is not None:
            return Accepted(first, replayed=True)
        self._let_in(self._store(submission, of_tenant=False), submission)
        return Accepted(job_id, replayed=False)

    async def withdraw(self, tenant: str, job_id: str) -> bool:
        job = self._jobs.get(job_id)
        if job is not None and not job.withheld:
            return False
        self._leave_tombstone(job_id, tenant, job)
        if job is not None:
            self._unreserve(job)
        return True

    async def generation(self) -> int:
        return self._generation

    async def begin_generation(self, generation: int) -> None:
        rules.check_generation(generation)
        self._generation = max(self._generation, generation)

    def lose_everything(self) -> None:
        """As a store whose disk was lost. Who listens for doorbells goes on listening."""
        self._jobs, self._keys, self._tombs = {}, {}, {}
        self._waiting, self._claims, self._meters, self._generation = Waiting(), ClaimMemory(), Meters(), 0

    @property
    def withheld(self) -> frozenset[str]:
        """Ids of jobs that are."""
        return frozenset(job.id for job in self._jobs.values() if job.withheld)

    def _known(self, submission: Submission) -> str | None:
        """The id of the job that is there for it already. Raises IdempotencyConflict."""
        rules.check_request(submission.request, self.shards)
        key = _key_of(submission)
        if key is not None and key in self._keys:
            first = self._jobs[self._keys[key]]
            if first.body_hash != submission.body_hash:
                raise rules.conflict(first.id)
            return first.id
        known = submission.request.id in self._jobs or self._tomb(submission.request.id) is not None
        return submission.request.id if known else None

    def _store(self, submission: Submission, *, of_tenant: bool) -> Record:
        """Count and keep a job that is not known. Raises QueueFull, RequestTooLarge, and, where its tenant is bound, TenantFull."""
        request, now, key = submission.request, self._clock(), _key_of(submission)
        self._meters.admit(request, self._limits, now, of_tenant=of_tenant)
        # Two arrivals in one tick keep their order.
        self._last_arrival = max(self._last_arrival + 1, now * 1000)
        job = Record(
            place=Place(self._last_arrival, request.id),
            body=encode_request(request),
            body_hash=submission.body_hash,
            key=key,
            tenant=request.tenant,
            model=request.model,
            lane=request.lane,
            room=request.room,
            cost=request.cost,
            accepted_ms=now,
            deadline_ms=now + submission.ttl_ms,
            epoch=self._generation * GENERATION_EPOCHS,
        )
        self._jobs[job.id] = job
        if key is not None:
            self._keys[key] = job.id
        return job

    def _let_in(self, job: Record, submission: Submission) -> None:
        """Put it in its lane. Only now its viewer's grace begins: while it was withheld nobody was told to wait."""
        if submission.request.attended:
            job.viewer_due = self._clock() + self._limits.viewer_grace_ms
        self._enqueue(job)

    def _release_withheld(self, job_id: str, submission: Submission) -> bool:
        """False: it is not withheld."""
        job = self._jobs.get(job_id)
        if job is None or not job.withheld:
            return False
        job.withheld_due = None
        self._let_in(job, submission)
        return True

    def _unreserve(self, job: Record) -> None:
        self._meters.leave(job.tenant, job.cost, self._clock())
        self._erase(job)

    def _enqueue(self, job: Record) -> None:
        job.state = State.QUEUED
        self._waiting.put(job, self._clock())
        self._work_bells.ring([job.lane])

    def _erase(self, job: Record) -> None:
        del self._jobs[job.id]
        if job.key is not None:
            del self._keys[job.key]

    def _bury(self, job: Record) -> None:
        self._leave_tombstone(job.id, job.tenant, job)
        self._erase(job)

    def _leave_tombstone(self, job_id: str, tenant: str, job: Record | None) -> None:
        """By which a late repeat of its accept is known: to its deadline at the least, and never shorter than an earlier one."""
        deadline_ms = 0 if job is None else job.deadline_ms
        _, earlier_ms = self._tombs.get(job_id, ("", 0))
        self._tombs[job_id] = (tenant, max(self._clock() + self._limits.retention_ms, deadline_ms, earlier_ms))

    def _tomb(self, job_id: str) -> str | None:
        """The tenant of a purged job."""
        tenant, until = self._tombs.get(job_id, ("", 0))
        return tenant if until > self._clock() else None


def _key_of(submission: Submission) -> tuple[str, str] | None:
    key = submission.idempotency_key
    return None if key is None else (submission.request.tenant, key)
