"""Random histories: lost replies, zombies, reaps, expiries, cancels, purges. After every call the whole store is compared with before.

The model is small and independent of both adapters: the table of transitions in `headrace/state.py`, the verdicts that `headrace/ports.py`
promises given what the job looked like before the call, and the shape of logs and outbox.
"""

from collections.abc import Callable, Coroutine
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import precondition, rule, run_state_machine_as_test

from headrace.cursor import LogPosition
from headrace.ids import shard_of
from headrace.ports import Claim, Verdict
from headrace.queues.rules import STRIKES_PER_CRASH, TURN_MS
from headrace.request import Lane
from headrace.state import TERMINAL, State
from headrace.testing.bench import LEASE_MS, Bench, MemoryBench, RedisBench
from headrace.testing.picture import Picture
from headrace.testing.store import Store
from tests.property.queue_machine import LIMITS, WORKERS, Holding
from tests.property.submitting import Submitting


class Working(Submitting):
    """Workers and housekeeping beside them."""

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
        claimable = {i for i, job in self.suspicion.waiting(before, suspects=False).items() if job.deadline_ms > self.bench.now_ms}
        taken = [claim.request.id for claim in claims]
        assert set(taken) <= claimable
        assert len(taken) == len(set(taken)) == min(max_jobs, len(claimable))
        order = [lanes.index(claim.request.lane) for claim in claims]
        assert order == sorted(order)
        for claim in claims:
            self.note_claim(claim, before, worker, lost)

    def note_claim(self, claim: Claim, before: Picture, worker: str, lost: bool) -> None:
        job = before.jobs[claim.request.id]
        assert (claim.request, claim.epoch, claim.committed) == (job.request, job.epoch + 1, job.committed)
        self.owners[claim.request.id] = worker
        self.suspicion.note_claim(job)
        if not lost:
            self.holdings.append(Holding(claim.request.id, claim.epoch, worker, claim.committed))

    @rule(worker=st.sampled_from(WORKERS), repeated=st.booleans(), lost=st.sampled_from([False, False, True]))
    def claim_suspect(self, worker: str, repeated: bool, lost: bool) -> None:
        self.found_suspect(worker, repeated, lost)

    def found_suspect(self, worker: str, repeated: bool, lost: bool) -> bool:
        self.serial += 1
        nonce, before = f"nonce-{self.serial}", self.picture
        claim = self.call(self.bench.claim_suspect(worker, nonce=nonce), "claim")
        if repeated and claim is not None:
            assert self.call(self.bench.claim_suspect(worker, nonce=nonce)) == claim
        mine = self.suspicion.shards_to_serve(worker, before, 0, self.bench.now_ms)
        assert (claim is not None) == bool(mine)
        if claim is not None:
            assert claim.request.id in self.suspicion.waiting(before, suspects=True)
            shard = shard_of(claim.request.id)
            assert shard in mine
            self.suspicion.note_turns({shard: mine[shard]})
            self.note_claim(claim, before, worker, lost)
        return claim is not None

    @rule(worker=st.sampled_from(WORKERS))
    def summon(self, worker: str) -> None:
        mine = self.suspicion.shards_to_serve(worker, self.picture, TURN_MS, self.bench.now_ms)
        assert self.call(self.bench.summon(worker)) == bool(mine)
        self.suspicion.note_turns(mine)

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
        if held:
            self.suspicion.forgive(before.jobs[one.job_id])
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
        before = self.picture
        assert set(self.call(self.bench.queue.reap_worker(worker), "reap")) == held
        self.suspicion.check_reaped(before, self.picture, STRIKES_PER_CRASH, self.bench.now_ms)
        assert all(self.picture.jobs[job_id].state is not State.RUNNING for job_id in held)

    @rule(worker=st.sampled_from(WORKERS), progress=st.sampled_from([False, False, True]))
    def crash_on_start(self, worker: str, progress: bool) -> None:
        """What it claims kills it, a suspect or else the others, and its supervisor sees that."""
        held = len(self.holdings)
        if not self.found_suspect(worker, repeated=False, lost=False):
            self.claim(worker, 4, list(Lane), repeated=False, lost=False)
        for which in range(held, len(self.holdings) if progress else held):
            self.append(which, 1, 0, repeated=False, lost=False)
        self.reap_worker(worker)
        self.advance(2 * TURN_MS)

    # Time and sweeps

    @rule(ms=st.sampled_from([1, 500, LEASE_MS // 2, LEASE_MS, 10_000, 60_000]))
    def advance(self, ms: int) -> None:
        self.call(self.bench.advance(ms))

    @rule(limit=st.sampled_from([1, 100]))
    def reap_expired(self, limit: int) -> None:
        before = self.picture
        self.call(self.bench.queue.reap_expired(limit), "reap")
        self.suspicion.check_reaped(before, self.picture, 1, self.bench.now_ms)

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
    def forget_lapsed(self, limit: int) -> None:
        before, now = self.picture, self.bench.now_ms
        moved = self.call(self.bench.queue.forget_lapsed(limit), "lapse")
        due = {i for i in before.withheld if before.jobs[i].accepted_ms + LIMITS.reservation_ms <= now}
        gone = before.jobs.keys() - self.picture.jobs.keys()
        assert gone <= due
        assert moved == len(gone)
        assert limit == 1 or gone == due
        self.lapsed |= gone

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
        for submission in self.submissions:
            if submission.request.id in self.picture.withheld:
                assert not self.call(self.bench.queue.admit(submission)).replayed
        claims = self.call(self.bench.claim("good"), "claim")
        while (suspect := self.call(self.bench.claim_suspect("good"), "claim")) is not None:
            claims.append(suspect)
        for claim in claims:
            assert self.call(self.bench.finish(claim.request.id, claim.epoch, claim.committed), "finish") is Verdict.OK
        assert all(job.state in TERMINAL for job in self.picture.jobs.values())
        assert self.picture.jobs.keys() | self.purged.keys() == {submission.request.id for submission in self.submissions}
        load = self.run(self.bench.queue.load())
        assert (load.cost, load.running, load.delayed) == (0, 0, 0)


def run_machine(make_bench: Callable[[], Coroutine[Any, Any, Bench]], examples: int) -> None:
    class Machine(Working):
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
def test_redis(valkey: Store, shards: int, examples: int) -> None:
    async def make() -> Bench:
        return await RedisBench.connect(valkey.url, LIMITS, shards)

    run_machine(make, examples)
