"""What `headrace/ports.py` promises when a job is cancelled, given back or lost by its worker, for every adapter."""

import pytest

from headrace.cursor import START
from headrace.ports import Held, Verdict
from headrace.state import State
from headrace.testing.bench import LEASE_MS, Bench, Outcome

UNKNOWN = "00" + "f" * 29


class TestCancel:
    async def test_queued(self, bench: Bench) -> None:
        job_id = await bench.submit()
        for _ in range(2):
            assert await bench.queue.cancel("alice", job_id) is State.CANCELLED
        assert await bench.claim() == []
        log = await bench.queue.read_log("alice", job_id, START, 10)
        assert [(entry.position, entry.end, entry.reason) for entry in log] == [((0, 1), State.CANCELLED, "cancelled")]
        assert await bench.outbox() == [Outcome(job_id, "alice", State.CANCELLED, "cancelled")]

    async def test_delayed(self, bench: Bench) -> None:
        job_id = await bench.submit()
        await bench.claim()
        await bench.release(job_id, 1, delay_ms=1_000)
        assert await bench.queue.cancel("alice", job_id) is State.CANCELLED
        await bench.advance(1_000)
        assert await bench.queue.promote(10) == 0

    async def test_running_is_the_owners_to_end(self, bench: Bench) -> None:
        job_id = await bench.submit()
        await bench.claim()
        assert await bench.queue.cancel("alice", job_id) is State.RUNNING
        assert (await bench.queue.get("alice", job_id)).cancel_requested
        assert await bench.append(job_id, 1, 0) is Verdict.CANCEL
        assert await bench.renew(job_id, 1) is Verdict.CANCEL
        assert await bench.finish(job_id, 1, 1, State.CANCELLED, "cancelled") is Verdict.OK
        assert await bench.queue.cancel("alice", job_id) is State.CANCELLED

    async def test_ended_stays(self, bench: Bench) -> None:
        job_id = await bench.submit()
        await bench.claim()
        await bench.finish(job_id, 1, 0)
        assert await bench.queue.cancel("alice", job_id) is State.DONE
        assert not (await bench.queue.get("alice", job_id)).cancel_requested

    @pytest.mark.parametrize("how", ["release", "reap_worker", "reap_expired"])
    async def test_whoever_takes_the_lease_away_completes_it(self, bench: Bench, how: str) -> None:
        job_id = await bench.submit()
        await bench.claim()
        await bench.append(job_id, 1, 0)
        await bench.queue.cancel("alice", job_id)
        await take_away(bench, job_id, 1, how)
        job = await bench.queue.get("alice", job_id)
        assert (job.state, job.reason, job.committed) == (State.CANCELLED, "cancelled", 1)
        log = await bench.queue.read_log("alice", job_id, START, 10)
        assert [entry.position for entry in log] == [(1, 1), (2, 2)]


class TestRelease:
    async def test_back_to_its_old_place(self, bench: Bench) -> None:
        first, second = await bench.submit(), await bench.submit()
        await bench.claim(max_jobs=1)
        await bench.append(first, 1, 0, 2)
        assert await bench.release(first, 1) is Verdict.OK
        job = await bench.queue.get("alice", first)
        assert (job.state, job.epoch, job.crashes) == (State.QUEUED, 2, 0)
        assert [(claim.request.id, claim.epoch, claim.committed) for claim in await bench.claim()] == [(first, 3, 2), (second, 1, 0)]

    async def test_a_repeat_is_ok_and_moves_nothing(self, bench: Bench) -> None:
        job_id = await bench.submit()
        await bench.claim()
        assert await bench.release(job_id, 1) is Verdict.OK
        assert await bench.release(job_id, 1) is Verdict.OK
        await bench.claim()
        assert await bench.release(job_id, 1) is Verdict.OK
        job = await bench.queue.get("alice", job_id)
        assert (job.state, job.epoch) == (State.RUNNING, 3)

    async def test_to_wait(self, bench: Bench) -> None:
        job_id = await bench.submit()
        await bench.claim()
        await bench.release(job_id, 1, delay_ms=1_000)
        assert await bench.state(job_id) is State.DELAYED
        assert (await bench.queue.load()).delayed == 1
        await bench.advance(999)
        assert await bench.queue.promote(10) == 0
        assert await bench.claim() == []
        await bench.advance(1)
        assert await bench.queue.promote(10) == 1
        assert [claim.epoch for claim in await bench.claim()] == [3]


async def take_away(bench: Bench, job_id: str, epoch: int, how: str) -> None:
    """The job loses its owner "w1"."""
    if how == "release":
        await bench.release(job_id, epoch)
    elif how == "reap_worker":
        await bench.queue.reap_worker("w1")
    else:
        await bench.advance(LEASE_MS)
        await bench.queue.reap_expired(100)


class TestFencing:
    @pytest.mark.parametrize("how", ["release", "reap_worker", "reap_expired"])
    @pytest.mark.parametrize("reclaimed", [False, True])
    async def test_every_write_of_an_older_epoch_is_refused(self, bench: Bench, how: str, reclaimed: bool) -> None:
        job_id = await bench.submit()
        await bench.claim()
        await bench.append(job_id, 1, 0)
        await take_away(bench, job_id, 1, how)
        if reclaimed:
            await bench.claim("w2")
        before = await bench.queue.get("alice", job_id)
        assert await bench.append(job_id, 1, 1) is Verdict.FENCED
        assert await bench.append(job_id, 1, 0) is Verdict.FENCED
        assert await bench.renew(job_id, 1) is Verdict.FENCED
        assert await bench.finish(job_id, 1, 1) is Verdict.FENCED
        assert await bench.release(job_id, 1) is (Verdict.OK if how == "release" else Verdict.FENCED)
        assert await bench.queue.get("alice", job_id) == before

    async def test_an_epoch_not_given_yet_is_refused(self, bench: Bench) -> None:
        job_id = await bench.submit()
        for epoch in (0, 1):
            assert await bench.append(job_id, epoch, 0) is Verdict.FENCED
            assert await bench.renew(job_id, epoch) is Verdict.FENCED
            assert await bench.finish(job_id, epoch, 0) is Verdict.FENCED
            assert await bench.release(job_id, epoch) is Verdict.FENCED

    async def test_an_ended_job_is_refused(self, bench: Bench) -> None:
        job_id = await bench.submit()
        await bench.claim()
        await bench.finish(job_id, 1, 0)
        assert await bench.append(job_id, 1, 0) is Verdict.FENCED
        assert await bench.renew(job_id, 1) is Verdict.FENCED
        assert await bench.release(job_id, 1) is Verdict.FENCED

    async def test_unknown_jobs(self, bench: Bench) -> None:
        assert await bench.queue.renew([Held(UNKNOWN, 1)], LEASE_MS) == [Verdict.FENCED]
        assert await bench.queue.release([Held(UNKNOWN, 0)], 0) == [Verdict.FENCED]


class TestLeases:
    async def test_renewing_keeps_a_job(self, bench: Bench) -> None:
        job_id = await bench.submit()
        await bench.claim()
        for _ in range(3):
            await bench.advance(LEASE_MS - 1)
            assert await bench.queue.reap_expired(10) == 0
            assert await bench.renew(job_id, 1) is Verdict.OK
        await bench.advance(LEASE_MS)
        assert await bench.queue.reap_expired(10) == 1
        assert await bench.state(job_id) is State.QUEUED

    async def test_a_lease_that_ran_out_holds_until_somebody_reaps_it(self, bench: Bench) -> None:
        job_id = await bench.submit()
        await bench.claim()
        await bench.advance(2 * LEASE_MS)
        assert await bench.append(job_id, 1, 0) is Verdict.OK
        assert await bench.renew(job_id, 1) is Verdict.OK
        assert await bench.queue.reap_expired(10) == 0

    async def test_a_sweep_is_bounded(self, bench: Bench) -> None:
        for _ in range(5):
            await bench.submit()
        await bench.claim()
        await bench.advance(LEASE_MS)
        assert [await bench.queue.reap_expired(2) for _ in range(4)] == [2, 2, 1, 0]

    async def test_reaping_a_worker_takes_exactly_its_jobs(self, bench: Bench) -> None:
        mine = [await bench.submit() for _ in range(2)]
        await bench.claim("w1")
        theirs = await bench.submit()
        await bench.claim("w11")
        assert sorted(await bench.queue.reap_worker("w1")) == sorted(mine)
        assert await bench.queue.reap_worker("w1") == []
        assert [await bench.state(job_id) for job_id in (*mine, theirs)] == [State.QUEUED, State.QUEUED, State.RUNNING]

    async def test_a_job_lost_before_is_not_reaped_with_its_old_worker(self, bench: Bench) -> None:
        await bench.submit()
        await bench.claim("w1")
        await bench.advance(LEASE_MS)
        await bench.queue.reap_expired(10)
        await bench.claim("w2")
        assert await bench.queue.reap_worker("w1") == []

    async def test_reap_meets_a_passed_deadline(self, bench: Bench) -> None:
        a, b = await bench.submit(ttl_ms=1_000), await bench.submit(ttl_ms=LEASE_MS)
        await bench.claim("w1", max_jobs=1)
        await bench.claim("w2")
        await bench.advance(1_000)
        await bench.queue.reap_worker("w1")
        await bench.advance(LEASE_MS - 1_000)
        assert await bench.queue.reap_expired(10) == 1
        for job_id in (a, b):
            job = await bench.queue.get("alice", job_id)
            assert (job.state, job.reason) == (State.EXPIRED, "deadline")
