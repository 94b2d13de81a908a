"""What `headrace/ports.py` promises, for every adapter: sweeps, viewers, purging, doorbells, load, and workers' reports."""

import asyncio
from dataclasses import replace

import pytest

from headrace.cursor import START
from headrace.errors import JobNotFound, JobPurged
from headrace.load import Depth, Ending, Load
from headrace.ports import Append, Verdict
from headrace.queues.rules import QueueLimits
from headrace.request import Lane
from headrace.state import Fault, State
from headrace.testing.bench import MODEL, Bench, Outcome
from headrace.testing.builders import make_status

SHORT = QueueLimits(retention_ms=60_000, viewer_grace_ms=1_000)

STATUS = make_status("w1", memory_used=10, memory_total=20, kv_tokens_used=3, kv_tokens_total=4, active_requests=1, steps=5)


class TestDeadlines:
    async def test_queued_and_delayed_jobs_expire(self, bench: Bench) -> None:
        delayed = await bench.submit(ttl_ms=1_000)
        await bench.claim()
        await bench.append(delayed, 1, 0, 2)
        await bench.release(delayed, 1, delay_ms=60_000)
        queued, later = await bench.submit(ttl_ms=1_000), await bench.submit(ttl_ms=1_001)
        await bench.advance(999)
        assert await bench.queue.expire(10) == 0
        await bench.advance(1)
        assert await bench.queue.expire(10) == 2
        assert [await bench.state(job_id) for job_id in (delayed, queued, later)] == [State.EXPIRED, State.EXPIRED, State.QUEUED]
        assert [entry.position for entry in await bench.queue.read_log("alice", delayed, START, 10)] == [(1, 2), (2, 3)]

    async def test_a_running_job_is_its_owners_to_expire(self, bench: Bench) -> None:
        job_id = await bench.submit(ttl_ms=1_000)
        await bench.claim()
        await bench.advance(1_000)
        assert await bench.queue.expire(10) == 0
        await bench.release(job_id, 1)
        assert await bench.queue.expire(10) == 1

    async def test_the_sweep_is_bounded(self, bench: Bench) -> None:
        for _ in range(5):
            await bench.submit(ttl_ms=1)
        await bench.advance(1)
        assert [await bench.queue.expire(2) for _ in range(4)] == [2, 2, 1, 0]


@pytest.mark.parametrize("limits", [SHORT])
class TestViewers:
    async def test_an_attended_job_nobody_waits_for_is_cancelled(self, bench: Bench) -> None:
        left, attended, background = await bench.submit(attended=True), await bench.submit(attended=True), await bench.submit()
        await bench.advance(999)
        await bench.queue.attend([attended, background, "00" + "f" * 29])
        assert await bench.queue.cancel_unattended(10) == 0
        await bench.advance(1)
        assert await bench.queue.cancel_unattended(10) == 1
        assert [await bench.state(job_id) for job_id in (left, attended, background)] == [State.CANCELLED, State.QUEUED, State.QUEUED]
        assert await bench.outbox() == [Outcome(left, "alice", State.CANCELLED, "unattended")]

    async def test_a_running_one_is_cancelled_through_its_owner_once(self, bench: Bench) -> None:
        job_id = await bench.submit(attended=True)
        await bench.claim()
        await bench.advance(1_000)
        assert [await bench.queue.cancel_unattended(10) for _ in range(2)] == [1, 0]
        assert (await bench.queue.get("alice", job_id)).cancel_requested
        await bench.queue.attend([job_id])  # too late
        await bench.queue.reap_worker("w1")
        job = await bench.queue.get("alice", job_id)
        assert (job.state, job.reason) == (State.CANCELLED, "unattended")

    async def test_its_owner_ends_it_without_changing_the_reason(self, bench: Bench) -> None:
        job_id = await bench.submit(attended=True)
        await bench.claim()
        await bench.advance(1_000)
        await bench.queue.cancel_unattended(10)
        assert await bench.finish(job_id, 1, 0, State.CANCELLED, "cancelled") is Verdict.OK
        assert (await bench.queue.get("alice", job_id)).reason == "unattended"

    async def test_an_ended_job_is_left_alone(self, bench: Bench) -> None:
        job_id = await bench.submit(attended=True)
        await bench.claim()
        await bench.finish(job_id, 1, 0)
        await bench.queue.attend([job_id])
        await bench.advance(10_000)
        assert await bench.queue.cancel_unattended(10) == 0


@pytest.mark.parametrize("limits", [SHORT])
class TestPurge:
    async def test_an_ended_job_is_gone_after_its_retention(self, bench: Bench) -> None:
        ended, live = await bench.submit(key="k"), await bench.submit()
        await bench.claim(max_jobs=1)
        await bench.append(ended, 1, 0)
        await bench.finish(ended, 1, 1)
        await bench.advance(59_999)
        assert await bench.queue.purge(10) == 0
        assert (await bench.queue.get("alice", ended)).committed == 1
        await bench.advance(1)
        assert [await bench.queue.purge(10) for _ in range(2)] == [1, 0]
        for call in (bench.queue.get, bench.queue.cancel, bench.queue.queue_position):
            with pytest.raises(JobPurged):
                await call("alice", ended)
            with pytest.raises(JobNotFound):
                await call("bob", ended)
        with pytest.raises(JobPurged):
            await bench.queue.read_log("alice", ended, START, 10)
        assert await bench.queue.read_logs([(ended, START)], 10) == [[]]
        assert [job.request.id for job in await bench.queue.list_jobs("alice", after=None, limit=10)] == [live]
        with pytest.raises(JobNotFound):
            await bench.queue.list_jobs("alice", after=ended, limit=10)

    async def test_its_key_is_free_again_but_its_id_is_not(self, bench: Bench) -> None:
        submission = bench.submission(key="k")
        await bench.queue.accept(submission)
        await bench.queue.cancel("alice", submission.request.id)
        await bench.advance(60_000)
        assert (await bench.queue.accept(bench.submission(key="k"))).replayed
        await bench.queue.purge(10)
        assert (await bench.queue.accept(submission)).replayed
        assert not (await bench.queue.accept(bench.submission(key="k", body_hash="other"))).replayed

    async def test_a_live_job_keeps_its_key_for_ever(self, bench: Bench) -> None:
        job_id = await bench.submit(key="k", ttl_ms=10**10)
        await bench.advance(10**9)
        assert await bench.queue.purge(10) == 0
        assert (await bench.queue.accept(bench.submission(key="k"))).job_id == job_id

    async def test_the_sweep_is_bounded(self, bench: Bench) -> None:
        for _ in range(5):
            await bench.queue.cancel("alice", await bench.submit())
        await bench.advance(60_000)
        assert [await bench.queue.purge(2) for _ in range(4)] == [2, 2, 1, 0]

    async def test_the_outbox_keeps_entries_as_long_as_jobs(self, bench: Bench) -> None:
        await bench.queue.cancel("alice", await bench.submit())
        await bench.queue.purge(10)
        assert len(await bench.outbox()) == 1
        await bench.advance(3_600_000)
        await bench.queue.purge(10)
        assert await bench.outbox() == []


@pytest.mark.parametrize("limits", [SHORT])
class TestForget:
    async def test_only_what_has_ended_goes(self, bench: Bench) -> None:
        ends = [await bench.submit(lane=Lane.BATCH) for _ in range(2)]
        running, delayed = await bench.submit(), await bench.submit()
        for claim in await bench.claim():
            await bench.append(claim.request.id, 1, 0)
        await bench.release(delayed, 1, delay_ms=1_000)
        queued = await bench.submit()
        await bench.finish(ends[0], 1, 1)
        await bench.finish(ends[1], 1, 1, State.FAILED, "why")
        live = [running, delayed, queued]
        before = await bench.queue.get_many("alice", live)
        await bench.queue.forget([*live, *ends, ends[0], "00" + "f" * 29])
        assert await bench.queue.states(ends + live) == [None, None, State.RUNNING, State.DELAYED, State.QUEUED]
        assert await bench.queue.get_many("alice", live) == before
        assert await bench.queue.read_logs([(job_id, START) for job_id in ends], 10) == [[], []]

    async def test_it_leaves_what_a_purge_leaves(self, bench: Bench) -> None:
        submission = bench.submission(key="k", lane=Lane.BATCH)
        job_id = (await bench.queue.accept(submission)).job_id
        await bench.queue.cancel("alice", job_id)
        for _ in range(2):  # a lost reply
            await bench.queue.forget([job_id])
        with pytest.raises(JobPurged):
            await bench.queue.get("alice", job_id)
        with pytest.raises(JobNotFound):
            await bench.queue.get("bob", job_id)
        assert await bench.queue.get_many("alice", [job_id]) == [None]
        # A line handed over again late stays one job, and its key is free.
        assert (await bench.queue.accept(submission)).replayed
        assert not (await bench.queue.accept(bench.submission(key="k", body_hash="other"))).replayed

    async def test_the_outbox_still_tells_of_it(self, bench: Bench) -> None:
        job_id = await bench.submit()
        await bench.queue.cancel("alice", job_id)
        await bench.queue.forget([job_id])
        assert await bench.outbox() == [Outcome(job_id, "alice", State.CANCELLED, "cancelled")]
        await bench.advance(60_000)
        assert await bench.queue.purge(10) == 0

    async def test_none_and_very_many(self, bench: Bench) -> None:
        job_id = await bench.submit()
        await bench.queue.cancel("alice", job_id)
        await bench.queue.forget([])
        await bench.queue.forget([f"00{i:029x}" for i in range(2_500)] + [job_id])
        assert await bench.queue.states([job_id]) == [None]


class TestDoorbells:
    async def test_a_grown_log_rings(self, bench: Bench) -> None:
        a, b, quiet = [await bench.submit() for _ in range(3)]
        await bench.claim()
        async with bench.queue.log_doorbell() as bell:
            await bench.queue.append(
                [
                    Append(job_id=a, epoch=1, start=0, token_ids=(1,), text=""),
                    Append(job_id=b, epoch=1, start=0, token_ids=(1,), text=""),
                    Append(job_id=quiet, epoch=7, start=0, token_ids=(1,), text=""),
                ]
            )
            assert await bell.wait(5) == {a, b}
            await bench.finish(quiet, 1, 0)
            assert await bell.wait(5) == {quiet}
            assert await bell.wait(0) == frozenset()
            assert await bell.wait(0.01) == frozenset()

    async def test_rings_since_the_last_look_are_kept(self, bench: Bench) -> None:
        async with bench.queue.log_doorbell() as bell, bench.queue.log_doorbell() as other:
            ids = {await bench.submit() for _ in range(3)}
            for job_id in ids:
                await bench.queue.cancel("alice", job_id)
            for one in (bell, other):
                heard: set[str] = set()
                while heard != ids:
                    heard |= await asyncio.wait_for(one.wait(5), 5)

    async def test_claimable_work_rings_its_lane(self, bench: Bench) -> None:
        async with bench.queue.work_doorbell() as bell:
            job_id = await bench.submit(lane=Lane.BATCH)
            assert await bell.wait(5) == {Lane.BATCH}
            await bench.claim()
            await bench.release(job_id, 1)
            assert await bell.wait(5) == {Lane.BATCH}
            await bench.claim()
            await bench.release(job_id, 3, delay_ms=1_000)
            await bench.advance(1_000)
            await bench.queue.promote(10)
            assert await bell.wait(5) == {Lane.BATCH}
            await bench.claim()
            await bench.queue.reap_worker("w1")
            assert await bell.wait(5) == {Lane.BATCH}

    async def test_a_cancelled_running_job_rings_its_id(self, bench: Bench) -> None:
        job_id = await bench.submit()
        await bench.claim()
        async with bench.queue.work_doorbell() as bell:
            await bench.queue.cancel("alice", job_id)
            assert await bell.wait(5) == {job_id}


class TestLoad:
    async def test_what_is_where(self, bench: Bench) -> None:
        assert await bench.queue.load() == Load(lanes=(), running=0, delayed=0, cost=0)
        for lane, n in ((Lane.STANDARD, 3), (Lane.BATCH, 2)):
            for _ in range(n):
                await bench.submit(lane=lane, tenant=f"t{n}")
        await bench.submit(model="a:b")
        a, b = await bench.claim(max_jobs=2)
        await bench.release(a.request.id, 1, delay_ms=1_000)
        assert await bench.queue.load() == Load(
            lanes=(Depth("a:b", Lane.STANDARD, 1), Depth(MODEL, Lane.BATCH, 2), Depth(MODEL, Lane.STANDARD, 1)),
            running=1,
            delayed=1,
            cost=6 * 11,
        )
        await bench.finish(b.request.id, 1, 0)
        assert (await bench.queue.load()).cost == 5 * 11

    async def test_an_emptied_lane_reads_zero(self, bench: Bench) -> None:
        await bench.queue.cancel("alice", await bench.submit())
        ended = (Ending(State.CANCELLED, None, 1),)
        assert await bench.queue.load() == Load(lanes=(Depth(MODEL, Lane.STANDARD, 0),), running=0, delayed=0, cost=0, ended=ended)

    async def test_endings_are_counted_by_state_and_fault_once_each_and_for_good(self, bench: Bench) -> None:
        reasons = ["engine_error: it: made no sense", "resource_exhausted: no", "nonsense: no", "engine_errors", "engine_error: again"]
        for state, reason in [(State.DONE, "stop"), *((State.FAILED, reason) for reason in reasons)]:
            job_id = await bench.submit()
            await bench.claim()
            for _ in range(2):
                assert await bench.finish(job_id, 1, 0, state, reason) is Verdict.OK
            await bench.queue.forget([job_id])
        assert (await bench.queue.load()).ended == (
            Ending(State.DONE, None, 1),
            Ending(State.FAILED, None, 2),
            Ending(State.FAILED, Fault.ENGINE_ERROR, 2),
            Ending(State.FAILED, Fault.RESOURCE_EXHAUSTED, 1),
        )


class TestWorkers:
    async def test_a_report_lives_as_long_as_it_says(self, bench: Bench) -> None:
        await bench.queue.report(replace(STATUS, worker="w2"), 5_000)
        await bench.queue.report(STATUS, 1_000)
        assert await bench.queue.workers() == [STATUS, replace(STATUS, worker="w2")]
        await bench.queue.report(newer := replace(STATUS, steps=6), 2_000)
        await bench.advance(1_999)
        assert newer in await bench.queue.workers()
        await bench.advance(1)
        assert await bench.queue.workers() == [replace(STATUS, worker="w2")]
        await bench.advance(3_000)
        assert await bench.queue.workers() == []

    async def test_a_standby_says_that_it_is_one(self, bench: Bench) -> None:
        await bench.queue.report(waiting := replace(STATUS, standby=True), 1_000)
        assert await bench.queue.workers() == [waiting]
        await bench.queue.report(STATUS, 1_000)  # its turn has come
        assert await bench.queue.workers() == [STATUS]

    async def test_ping(self, bench: Bench) -> None:
        await bench.queue.ping()


class TestRounds:
    async def test_the_last_one_is_as_old_as_it_is(self, bench: Bench) -> None:
        assert await bench.queue.swept_ms_ago() is None
        await bench.queue.end_round()
        assert await bench.queue.swept_ms_ago() == 0
        await bench.advance(1_234)
        assert await bench.queue.swept_ms_ago() == 1_234
        await bench.queue.end_round()
        assert await bench.queue.swept_ms_ago() == 0

    async def test_a_clock_that_was_put_back_makes_it_no_younger_than_now(self, bench: Bench) -> None:
        await bench.queue.end_round()
        await bench.advance(-60_000)
        assert await bench.queue.swept_ms_ago() == 0
