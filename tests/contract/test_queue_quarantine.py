"""What `headrace/ports.py` promises about jobs that take their workers down, for every adapter. max_solo_crashes is 2."""

from headrace.death import Death
from headrace.load import Depth, Load
from headrace.queues.rules import STRIKES_PER_CRASH, SUSPECT_STRIKES, TURN_MS
from headrace.request import Lane
from headrace.state import State
from headrace.testing.bench import LEASE_MS, MODEL, Bench, Outcome


async def crash(bench: Bench, worker: str = "w1", times: int = 1) -> None:
    """All that can be claimed takes its worker down."""
    for _ in range(times):
        await bench.claim(worker)
        await bench.queue.reap_worker(worker)


async def suspect(bench: Bench) -> str:
    job_id = await bench.submit()
    await crash(bench, times=2)
    return job_id


class TestBecomingASuspect:
    async def test_one_crash_leaves_a_job_among_the_others(self, bench: Bench) -> None:
        job_id = await bench.submit()
        await crash(bench)
        assert await bench.claim_suspect() is None
        assert [claim.request.id for claim in await bench.claim()] == [job_id]

    async def test_two_in_a_row_take_it_out_of_its_lane(self, bench: Bench) -> None:
        job_id = await suspect(bench)
        assert (await bench.queue.get("alice", job_id)).crashes == 2
        assert await bench.state(job_id) is State.QUEUED
        assert await bench.claim() == []
        claim = await bench.claim_suspect()
        assert claim is not None
        assert (claim.request.id, claim.epoch, claim.committed) == (job_id, 5, 0)

    async def test_a_token_between_them_forgives(self, bench: Bench) -> None:
        job_id = await bench.submit()
        for i in range(5):
            [claim] = await bench.claim()
            await bench.append(job_id, claim.epoch, i)
            await bench.queue.reap_worker("w1")
            assert (await bench.queue.get("alice", job_id)).crashes == 1

    async def test_so_does_a_token_before_it_was_given_back(self, bench: Bench) -> None:
        job_id = await bench.submit()
        await crash(bench)
        [claim] = await bench.claim()
        await bench.append(job_id, claim.epoch, 0)
        await bench.release(job_id, claim.epoch)
        assert (await bench.queue.get("alice", job_id)).crashes == 0
        await crash(bench)
        assert len(await bench.claim()) == 1

    async def test_giving_it_back_without_one_changes_nothing(self, bench: Bench) -> None:
        job_id = await suspect(bench)
        claim = await bench.claim_suspect()
        assert claim is not None
        await bench.release(job_id, claim.epoch, delay_ms=1_000)
        await bench.advance(1_000)
        await bench.queue.promote(10)
        assert await bench.claim() == []
        assert await bench.claim_suspect() is not None

    async def test_a_lease_that_ran_out_weighs_an_eighth(self, bench: Bench) -> None:
        job_id = await bench.submit()
        for _ in range(SUSPECT_STRIKES):
            assert len(await bench.claim()) == 1
            await bench.advance(LEASE_MS)
            await bench.queue.reap_expired(10)
        assert (await bench.queue.get("alice", job_id)).crashes == 0
        assert await bench.claim() == []
        assert await bench.claim_suspect() is not None

    async def test_it_still_counts_as_queued(self, bench: Bench) -> None:
        first, second = await bench.submit(lane=Lane.BATCH), await bench.submit(lane=Lane.BATCH)
        await crash(bench, times=2)
        assert await bench.queue.load() == Load(lanes=(Depth(MODEL, Lane.BATCH, 2),), running=0, delayed=0, cost=22)
        assert {await bench.queue.queue_position("alice", job_id) for job_id in (first, second)} == {1, 2}

    async def test_it_can_be_cancelled_and_expires_as_any_other(self, bench: Bench) -> None:
        cancelled = await suspect(bench)
        await bench.queue.cancel("alice", cancelled)
        overdue = await bench.submit(ttl_ms=1_000)
        await crash(bench, times=2)
        await bench.advance(1_000)
        assert await bench.queue.expire(10) == 1
        assert [await bench.state(job_id) for job_id in (cancelled, overdue)] == [State.CANCELLED, State.EXPIRED]
        assert await bench.claim_suspect() is None


class TestRunningAlone:
    async def test_one_at_a_time_those_that_crashed_last_at_the_end(self, bench: Bench) -> None:
        first = await suspect(bench)
        await bench.advance(1)
        second = await suspect(bench)
        claim = await bench.claim_suspect()
        assert claim is not None
        assert claim.request.id == first
        await bench.advance(1)
        await bench.queue.reap_worker("w1")
        await bench.advance(2 * TURN_MS)
        claims = [await bench.claim_suspect() for _ in range(2)]
        assert [claim.request.id for claim in claims if claim is not None] == [second, first]
        assert await bench.claim_suspect() is None

    async def test_a_repeated_claim_answers_with_the_same_job(self, bench: Bench) -> None:
        await suspect(bench)
        await suspect(bench)
        first = await bench.claim_suspect(nonce="once")
        assert first is not None
        assert await bench.claim_suspect(nonce="once") == first
        await bench.release(first.request.id, first.epoch)
        assert await bench.claim_suspect(nonce="once") is None

    async def test_progress_clears_it(self, bench: Bench) -> None:
        job_id = await suspect(bench)
        claim = await bench.claim_suspect()
        assert claim is not None
        await bench.append(job_id, claim.epoch, 0)
        await bench.queue.reap_worker("w1")
        assert (await bench.queue.get("alice", job_id)).crashes == 1
        assert len(await bench.claim()) == 1

    async def test_dead_after_it_crashed_alone_as_often_as_it_may(self, bench: Bench) -> None:
        job_id = await suspect(bench)
        for crashes in (3, 4):
            job = await bench.queue.get("alice", job_id)
            assert (job.state, job.crashes) == (State.QUEUED, crashes - 1)
            assert await bench.claim_suspect() is not None
            await bench.queue.reap_worker("w1")
            await bench.advance(2 * TURN_MS)
        job = await bench.queue.get("alice", job_id)
        assert (job.state, job.reason) == (State.DEAD, "its worker died 2 times while it ran alone, without a token")
        assert await bench.outbox() == [Outcome(job_id, "alice", State.DEAD, job.reason)]
        assert await bench.queue.deaths(10) == [Death(job_id, "alice", crashes=4, expiries=0)]
        assert await bench.queue.deaths(10) == []

    async def test_leases_that_run_out_kill_it_too_in_the_end(self, bench: Bench) -> None:
        job_id = await suspect(bench)
        for _ in range(2 * STRIKES_PER_CRASH):
            assert await bench.state(job_id) is State.QUEUED
            await bench.advance(2 * TURN_MS)
            assert await bench.claim_suspect() is not None
            await bench.advance(LEASE_MS)
            assert await bench.queue.deaths(10) == []
            await bench.queue.reap_expired(10)
        assert await bench.state(job_id) is State.DEAD
        assert await bench.queue.deaths(10) == [Death(job_id, "alice", crashes=2, expiries=2 * STRIKES_PER_CRASH)]

    async def test_company_alone_never_kills(self, bench: Bench) -> None:
        """However often its worker dies: after the second time there is no company any more."""
        ids = [await bench.submit() for _ in range(20)]
        await crash(bench, times=50)
        assert {await bench.state(job_id) for job_id in ids} == {State.QUEUED}


class TestTurns:
    async def test_one_worker_at_a_time_has_the_turn(self, bench: Bench) -> None:
        for _ in range(3):
            await suspect(bench)
        assert await bench.claim_suspect("w1") is not None
        assert await bench.claim_suspect("w2") is None
        assert await bench.claim_suspect("w1") is not None

    async def test_after_a_turn_nobody_has_one_for_as_long(self, bench: Bench) -> None:
        for _ in range(3):
            await suspect(bench)
        assert await bench.claim_suspect("w1") is not None
        await bench.advance(TURN_MS)
        assert await bench.claim_suspect("w1") is None
        await bench.advance(TURN_MS - 1)
        assert await bench.claim_suspect("w2") is None
        await bench.advance(1)
        assert await bench.claim_suspect("w2") is not None

    async def test_a_busy_worker_is_summoned_when_no_idle_one_comes(self, bench: Bench) -> None:
        assert not await bench.summon("w1")
        await suspect(bench)
        await bench.advance(TURN_MS - 1)
        assert not await bench.summon("w1")
        await bench.advance(1)
        assert await bench.summon("w1")
        assert not await bench.summon("w2")
        assert await bench.claim_suspect("w2") is None
        assert await bench.claim_suspect("w1") is not None

    async def test_its_turn_goes_on_while_suspects_wait(self, bench: Bench) -> None:
        """It has run one, and is busy with it now that it made progress: the next one does not wait for its end."""
        await suspect(bench)
        await suspect(bench)
        assert await bench.claim_suspect("w1") is not None
        assert await bench.summon("w1")
        assert await bench.claim_suspect("w1") is not None
        assert not await bench.summon("w1")

    async def test_models_are_apart(self, bench: Bench) -> None:
        await suspect(bench)
        assert await bench.queue.claim_suspect(worker="w1", nonce="n", models=("other",), lease_ms=LEASE_MS) is None
        claim = await bench.queue.claim_suspect(worker="w1", nonce="n", models=("other", MODEL), lease_ms=LEASE_MS)
        assert claim is not None

    async def test_work_that_waits_apart_rings(self, bench: Bench) -> None:
        await bench.submit(lane=Lane.BATCH)
        await crash(bench)
        await bench.claim()
        async with bench.queue.work_doorbell() as bell:
            await bench.queue.reap_worker("w1")
            assert await bell.wait(5) == {Lane.BATCH}
