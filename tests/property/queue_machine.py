"""What every random history of the queue is made of: calls whose every effect is compared with what they may do."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

from hypothesis.stateful import RuleBasedStateMachine, invariant

from headrace.job import Job
from headrace.ports import Submission, Verdict
from headrace.queues.rules import QueueLimits
from headrace.state import State
from headrace.testing.bench import Bench
from headrace.testing.picture import Picture, check_changes, check_reads, look
from tests.property.suspicion import Suspicion

T = TypeVar("T")

TENANTS = ("alice", "bob")
WORKERS = ("w1", "w2", "w3")
MAX_TENANT_JOBS = 9
LIMITS = QueueLimits(
    max_live_jobs=12, max_tenant_jobs=MAX_TENANT_JOBS, max_solo_crashes=2, retention_ms=60_000, viewer_grace_ms=8_000, reservation_ms=15_000
)


@dataclass
class Holding:
    """A job as a worker sees it. Never corrected by others: after a reap it is a zombie's."""

    job_id: str
    epoch: int
    worker: str
    committed: int


class QueueMachine(RuleBasedStateMachine):
    def __init__(self, make_bench: Callable[[], Coroutine[Any, Any, Bench]]) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.run = self.runner.run
        self.bench = self.run(make_bench())
        self.picture = Picture()
        self.submissions: list[Submission] = []
        self.holdings: list[Holding] = []
        self.owners: dict[str, str] = {}
        self.suspicion = Suspicion(LIMITS.max_solo_crashes)
        self.purged: dict[str, int] = {}
        """Until when their tombstones stand."""
        self.lapsed: set[str] = set()
        self.serial = 0

    def call(self, call: Coroutine[Any, Any, T], *transitions: str) -> T:
        """Make the call and check that it changed nothing but what these transitions may."""
        answer = self.run(call)
        before, self.picture = self.picture, self.run(look(self.bench))
        check_changes(before, self.picture, transitions)
        kept_until = self.bench.now_ms + LIMITS.retention_ms
        self.purged |= {i: max(kept_until, before.jobs[i].deadline_ms) for i in before.jobs.keys() - self.picture.jobs.keys()}
        self.suspicion.note_queued(before, self.picture, self.bench.now_ms)
        return answer

    def twice(self, repeated: bool, make: Callable[[], Coroutine[Any, Any, T]], *transitions: str) -> T:
        """The reply of the first call is lost now and then, and the caller repeats it: the second answer must equal the first."""
        answer = self.call(make(), *transitions)
        if repeated:
            before = self.picture
            assert self.call(make(), *transitions) == answer
            assert self.picture == before
        return answer

    def is_held(self, one: Holding) -> bool:
        job = self.picture.jobs.get(one.job_id)
        return job is not None and job.state is State.RUNNING and job.epoch == one.epoch

    def advice(self, job: Job) -> Verdict:
        if job.cancel_requested:
            return Verdict.CANCEL
        return Verdict.EXPIRE if job.deadline_ms <= self.bench.now_ms else Verdict.OK

    def any_job(self, which: int) -> Job:
        return list(self.picture.jobs.values())[which % len(self.picture.jobs)]

    @invariant()
    def reads_agree(self) -> None:
        self.run(check_reads(self.bench, self.picture))
