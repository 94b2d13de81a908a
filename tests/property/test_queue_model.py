"""Random histories: lost replies, zombies, reaps, expiries, cancels, purges. After every call the whole store is compared with before.

The model is small and independent of both adapters: the table of transitions in `headrace/state.py`, the verdicts that `headrace/ports.py`
promises given what the job looked like before the call, and the shape of logs and outbox.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from headrace.cursor import LogPosition
from headrace.embedded import EmbeddedValkey
from headrace.errors import QueueFull, TenantFull
from headrace.ids import shard_of
from headrace.ports import START, Job, LogEntry, Submission, Verdict
from headrace.queues.rules import QueueLimits
from headrace.request import Lane, Request
from headrace.state import LIVE, TERMINAL, TRANSITIONS, State
from headrace.testing.bench import LEASE_MS, Bench, MemoryBench, Outcome, RedisBench

T = TypeVar("T")

TENANTS = ("alice", "bob")
WORKERS = ("w1", "w2", "w3")
MAX_TENANT_JOBS = 9
LIMITS = QueueLimits(max_live_jobs=12, max_tenant_jobs=MAX_TENANT_JOBS, max_crashes=2, retention_ms=60_000, viewer_grace_ms=8_000)


@dataclass
class Holding:
    """A job as a worker sees it. Never corrected by others: after a reap it is a zombie's."""

    job_id: str
    epoch: int
    worker: str
    committed: int


@dataclass
class Picture:
    """The store, seen from outside."""

    jobs: dict[str, Job] = field(default_factory=dict)
    logs: dict[str, list[LogEntry]] = field(default_factory=dict)
    outbox: list[Outcome] = field(default_factory=list)


class QueueMachine(RuleBasedStateMachine):
    def __init__(self, make_bench: Callable[[], Awaitable[Bench]]) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.bench = self.run(_awaited(make_bench()))
        self.picture = Picture()
        self.submissions: list[Submission] = []
        self.holdings: list[Holding] = []
        self.owners: dict[str, str] = {}
        self.purged: dict[str, int] = {}
        """When."""
        self.serial = 0

    def run(self, call: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(call)

    def call(self, call: Coroutine[Any, Any, T], *transitions: str) -> T:
        """Make the call and check that it changed nothing but what these transitions may."""
        answer = self.run(call)
        before, self.picture = self.picture, self.run(self.look())
        check_changes(before, self.picture, transitions)
        check_outbox(before, self.picture, purging="purge" in transitions)
        check_logs(before, self.picture)
        self.purged |= dict.fromkeys(before.jobs.keys() - self.picture.jobs.keys(), self.bench.now_ms)
        return answer

    async def look(self) -> Picture:
        queue = self.bench.queue
        made = self.bench.made.items()
        jobs = {job.request.id: job for tenant, ids in made for job in await queue.get_many(tenant, ids) if job is not None}
        logs = await queue.read_logs([(job_id, START) for job_id in jobs], 10_000)
        return Picture(jobs, dict(zip(jobs, logs, strict=True)), await self.bench.outbox())

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

    # Submitters

    @rule(
        tenant=st.sampled_from(TENANTS),
        lane=st.sampled_from(Lane),
        keyed=st.booleans(),
        attended=st.booleans(),
        ttl_ms=st.sampled_from([3_000, 20_000, 10**7]),
        repeated=st.booleans(),
    )
    def accept(self, tenant: str, lane: Lane, keyed: bool, attended: bool, ttl_ms: int, repeated: bool) -> None:
        self.serial += 1
        key = f"key-{self.serial}" if keyed else None
        submission = self.bench.submission(
            tenant=tenant, lane=lane, key=key, attended=attended, ttl_ms=ttl_ms, max_tokens=self.serial % 7 + 1
        )
        if (bound := self.reached(submission.request)) is not None:
            before = self.picture
            with pytest.raises(bound):
                self.call(self.bench.queue.accept(submission))
            assert self.picture == before
            return
        accepted = self.call(self.bench.queue.accept(submission), "accept")
        assert (accepted.job_id, accepted.replayed) == (submission.request.id, False)
        self.submissions.append(submission)
        if repeated:
            self.accept_again(len(self.submissions) - 1)

    def reached(self, request: Request) -> type[QueueFull] | None:
        """Which bound the request would break in its shard."""
        live = [i for i, job in self.picture.jobs.items() if job.state in LIVE and shard_of(i) == shard_of(request.id)]
        if len(live) >= LIMITS.max_live_jobs:
            return QueueFull
        own = [i for i in live if self.picture.jobs[i].request.tenant == request.tenant]
        return TenantFull if len(own) >= MAX_TENANT_JOBS else None

    @precondition(lambda self: self.submissions)
    @rule(which=st.integers(0, 10**6))
    def accept_again(self, which: int) -> None:
        submission = self.submissions[which % len(self.submissions)]
        before = self.picture
        purged_ms = self.purged.get(submission.request.id)
        if purged_ms is not None:
            if submission.idempotency_key is not None:
                return  # the key is free again; the id alone still answers
            if self.bench.now_ms >= purged_ms + LIMITS.retention_ms:
                return  # the tombstone too is gone
        accepted = self.call(self.bench.queue.accept(submission))
        assert (accepted.job_id, accepted.replayed) == (submission.request.id, True)
        assert self.picture == before

    @precondition(lambda self: self.picture.jobs)
    @rule(which=st.integers(0, 10**6), repeated=st.booleans())
    def cancel(self, which: int, repeated: bool) -> None:
        job = self.any_job(which)
        state = self.twice(repeated, lambda: self.bench.queue.cancel(job.request.tenant, job.request.id), "cancel")
        assert state is (State.CANCELLED if job.state in (State.QUEUED, State.DELAYED) else job.state)
        assert self.picture.jobs[job.request.id].cancel_requested == (job.cancel_requested or job.state is State.RUNNING)

    @precondition(lambda self: self.picture.jobs)
    @rule(which=st.integers(0, 10**6))
    def attend(self, which: int) -> None:
        self.call(self.bench.queue.attend([self.any_job(which).request.id]))

    def any_job(self, which: int) -> Job:
        return list(self.picture.jobs.values())[which % len(self.picture.jobs)]

    # Workers

    @rule(
        worker=st.sampled_from(WORKERS),
        max_jobs=st.integers(0, 4),
        lanes=st.permutations(list(Lane)),
        repeated=st.booleans(),
        lost=st.sampled_from([False, False, False, True]),
    )
    def claim(self, worker: str, max_jobs: int, lanes: list[Lane], repeated: bool, lost: bool) -> None:
        self.serial += 1
        nonce, before = f"nonce-{self.serial}", self.picture
        claims = self.call(self.bench.claim(worker, nonce=nonce, lanes=lanes, max_jobs=max_jobs), "claim")
        if repeated and claims:
            again = self.call(self.bench.claim(worker, nonce=nonce, lanes=lanes, max_jobs=max_jobs))
            # Each call walks the shards from another one on.
            assert sorted(again, key=lambda claim: claim.request.id) == sorted(claims, key=lambda claim: claim.request.id)
        claimable = {i for i, job in before.jobs.items() if job.state is State.QUEUED and job.deadline_ms > self.bench.now_ms}
        taken = [claim.request.id for claim in claims]
        assert set(taken) <= claimable
        assert len(taken) == len(set(taken)) == min(max_jobs, len(claimable))
        order = [lanes.index(claim.request.lane) for claim in claims]
        assert order == sorted(order)
        for claim in claims:
            job = before.jobs[claim.request.id]
            assert (claim.request, claim.epoch, claim.committed) == (job.request, job.epoch + 1, job.committed)
            self.owners[claim.request.id] = worker
            if not lost:
                self.holdings.append(Holding(claim.request.id, claim.epoch, worker, claim.committed))

    @precondition(lambda self: self.holdings)
    @rule(
        which=st.integers(0, 10**6),
        tokens=st.integers(1, 3),
        skew=st.sampled_from([0, 0, 0, 0, -1, 1]),
        repeated=st.booleans(),
        lost=st.sampled_from([False, False, True]),
    )
    def append(self, which: int, tokens: int, skew: int, repeated: bool, lost: bool) -> None:
        one = self.holdings[which % len(self.holdings)]
        start = max(0, one.committed + skew)
        before = self.picture
        verdict = self.twice(repeated, lambda: self.bench.append(one.job_id, one.epoch, start, tokens), "append")
        if not self.is_held(one):
            assert verdict is Verdict.FENCED
            return
        job, position = before.jobs[one.job_id], LogPosition(one.epoch, start + tokens)
        there = any(entry.position == position and entry.token_ids[0] == start for entry in before.logs[one.job_id])
        assert verdict is (self.advice(job) if start == job.committed or there else Verdict.GAP)
        if verdict is not Verdict.GAP and not lost:
            one.committed = start + tokens

    @precondition(lambda self: self.holdings)
    @rule(which=st.integers(0, 10**6), repeated=st.booleans())
    def renew(self, which: int, repeated: bool) -> None:
        one = self.holdings[which % len(self.holdings)]
        verdict = self.twice(repeated, lambda: self.bench.renew(one.job_id, one.epoch), "renew")
        assert verdict is (self.advice(self.picture.jobs[one.job_id]) if self.is_held(one) else Verdict.FENCED)

    @precondition(lambda self: self.holdings)
    @rule(
        which=st.integers(0, 10**6),
        end=st.sampled_from([State.DONE, State.DONE, State.FAILED, State.CANCELLED, State.EXPIRED]),
        repeated=st.booleans(),
    )
    def finish(self, which: int, end: State, repeated: bool) -> None:
        one = self.holdings[which % len(self.holdings)]
        job, held = self.picture.jobs.get(one.job_id), self.is_held(one)
        verdict = self.twice(repeated, lambda: self.bench.finish(one.job_id, one.epoch, one.committed, end, "why"), "finish")
        if held and job is not None:
            assert verdict is (Verdict.OK if one.committed == job.committed else Verdict.GAP)
        else:
            assert verdict is (Verdict.OK if job is not None and (job.epoch, job.state) == (one.epoch, end) else Verdict.FENCED)

    @precondition(lambda self: self.holdings)
    @rule(which=st.integers(0, 10**6), delay_ms=st.sampled_from([0, 0, 2_000]), repeated=st.booleans())
    def release(self, which: int, delay_ms: int, repeated: bool) -> None:
        one = self.holdings[which % len(self.holdings)]
        held, before = self.is_held(one), self.picture
        verdict = self.twice(repeated, lambda: self.bench.release(one.job_id, one.epoch, delay_ms), "release")
        if held:
            assert verdict is Verdict.OK
            assert self.picture.jobs[one.job_id].state is not State.RUNNING
        else:
            assert self.picture == before

    @rule(worker=st.sampled_from(WORKERS))
    def reap_worker(self, worker: str) -> None:
        """Its holdings stay: the supervisor was wrong, and the worker goes on as a zombie."""
        held = {i for i, job in self.picture.jobs.items() if job.state is State.RUNNING and self.owners[i] == worker}
        assert set(self.call(self.bench.queue.reap_worker(worker), "reap")) == held
        assert all(self.picture.jobs[job_id].state is not State.RUNNING for job_id in held)

    @rule(worker=st.sampled_from(WORKERS))
    def crash_on_start(self, worker: str) -> None:
        """What it claims kills it, and its supervisor sees that."""
        self.claim(worker, 4, list(Lane), repeated=False, lost=True)
        self.reap_worker(worker)
        self.advance(700)  # more than a second crash's delay
        self.promote(100)

    # Time and sweeps

    @rule(ms=st.sampled_from([1, 500, LEASE_MS // 2, LEASE_MS, 10_000, 60_000]))
    def advance(self, ms: int) -> None:
        self.call(self.bench.advance(ms))

    @rule(limit=st.sampled_from([1, 100]))
    def reap_expired(self, limit: int) -> None:
        self.call(self.bench.queue.reap_expired(limit), "reap")

    @rule(limit=st.sampled_from([1, 100]))
    def promote(self, limit: int) -> None:
        self.call(self.bench.queue.promote(limit), "promote")

    @rule(limit=st.sampled_from([1, 100]))
    def expire(self, limit: int) -> None:
        self.call(self.bench.queue.expire(limit), "expire")

    @rule(limit=st.sampled_from([1, 100]))
    def cancel_unattended(self, limit: int) -> None:
        self.call(self.bench.queue.cancel_unattended(limit), "cancel")

    @rule(limit=st.sampled_from([1, 100]))
    def purge(self, limit: int) -> None:
        self.call(self.bench.queue.purge(limit), "purge")

    @precondition(lambda self: self.picture.jobs)
    @rule(every=st.integers(1, 3), repeated=st.booleans())
    def forget(self, every: int, repeated: bool) -> None:
        ids, before = list(self.picture.jobs)[::every], self.picture
        self.twice(repeated, lambda: self.bench.queue.forget(ids), "purge")
        assert before.jobs.keys() - self.picture.jobs.keys() == {i for i in ids if before.jobs[i].state in TERMINAL}
        assert self.picture.outbox == before.outbox

    # The whole

    @invariant()
    def reads_agree(self) -> None:
        jobs = self.picture.jobs
        assert dict(zip(jobs, self.run(self.bench.queue.states(list(jobs))), strict=True)) == {i: job.state for i, job in jobs.items()}
        for tenant in TENANTS:
            listed = self.run(self.bench.queue.list_jobs(tenant, after=None, limit=10_000))
            own = [job for job in jobs.values() if job.request.tenant == tenant and job.request.lane is not Lane.BATCH]
            assert sorted(job.request.id for job in listed) == sorted(job.request.id for job in own)
            assert all(jobs[job.request.id] == job for job in listed)

    @invariant()
    def counts_agree(self) -> None:
        load = self.run(self.bench.queue.load())
        states = [job.state for job in self.picture.jobs.values()]
        assert sum(depth.queued for depth in load.lanes) == states.count(State.QUEUED)
        assert (load.running, load.delayed) == (states.count(State.RUNNING), states.count(State.DELAYED))
        assert load.cost == sum(job.request.cost for job in self.picture.jobs.values() if job.state in LIVE)

    def teardown(self) -> None:
        try:
            self.run(self.bench.audit())
            self.settle()
            self.run(self.bench.audit())
        finally:
            self.run(self.bench.aclose())
            self.runner.close()

    def settle(self) -> None:
        """Everybody dies, one good worker comes: every job must end."""
        for worker in WORKERS:
            self.reap_worker(worker)
        self.advance(60_000)
        self.promote(100)
        for claim in self.call(self.bench.claim("good"), "claim"):
            assert self.call(self.bench.finish(claim.request.id, claim.epoch, claim.committed), "finish") is Verdict.OK
        assert all(job.state in TERMINAL for job in self.picture.jobs.values())
        assert self.picture.jobs.keys() | self.purged.keys() == {submission.request.id for submission in self.submissions}
        load = self.run(self.bench.queue.load())
        assert (load.cost, load.running, load.delayed) == (0, 0, 0)


def check_changes(before: Picture, after: Picture, transitions: tuple[str, ...]) -> None:
    for job_id in before.jobs.keys() | after.jobs.keys():
        old, new = before.jobs.get(job_id), after.jobs.get(job_id)
        source, target = old and old.state, new and new.state
        if source != target:
            allowed = [TRANSITIONS[name] for name in transitions]
            assert any(source in sources and target in targets for sources, targets in allowed), (transitions, source, target)
        if old is not None and new is not None:
            assert new.epoch >= old.epoch
            assert new.committed >= old.committed
            assert old.state in LIVE or new == old, "an ended job changed"


def check_outbox(before: Picture, after: Picture, *, purging: bool) -> None:
    old, new = Counter(before.outbox), Counter(after.outbox)
    if purging:
        assert new <= old
        return
    ended = [job for i, job in after.jobs.items() if job.state in TERMINAL and (i not in before.jobs or before.jobs[i].state in LIVE)]
    assert new == old + Counter(Outcome(job.request.id, job.request.tenant, job.state, job.reason) for job in ended)


def check_logs(before: Picture, after: Picture) -> None:
    for job_id, log in after.logs.items():
        old = before.logs.get(job_id, [])
        assert log[: len(old)] == old, "a log entry changed or vanished"
        if log == old:
            continue
        positions = [entry.position for entry in log]
        assert positions == sorted(set(positions))
        tokens = [token for entry in log for token in entry.token_ids]
        job = after.jobs[job_id]
        assert tokens == list(range(job.committed))
        ends = [entry.end for entry in log if entry.end is not None]
        assert ends == ([job.state] if job.state in TERMINAL else [])
        assert not ends or log[-1].end is not None


async def _awaited(what: Awaitable[T]) -> T:
    return await what


def run_machine(make_bench: Callable[[], Awaitable[Bench]], examples: int) -> None:
    class Machine(QueueMachine):
        def __init__(self) -> None:
            super().__init__(make_bench)

    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
        ),
    )


def test_memory() -> None:
    async def make() -> Bench:
        return MemoryBench(LIMITS)

    run_machine(make, examples=100)


@pytest.mark.parametrize(("shards", "examples"), [(1, 25), (3, 8)])
def test_redis(valkey: EmbeddedValkey, shards: int, examples: int) -> None:
    async def make() -> Bench:
        return await RedisBench.connect(valkey.url, LIMITS, shards)

    run_machine(make, examples)
