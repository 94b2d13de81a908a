"""Acceptance in two steps: reserve, admit; and what becomes of a reservation that nobody admits."""

import pytest

from headrace.cursor import GENERATION_EPOCHS, MAX_GENERATION
from headrace.errors import IdempotencyConflict, JobNotFound, JobPurged, QueueFull, RequestTooLarge, TenantFull
from headrace.ports import Submission
from headrace.queues.rules import QueueLimits
from headrace.request import Lane
from headrace.state import State
from headrace.testing.bench import Bench

HOUR_MS = 3_600_000


async def reserved(bench: Bench, **of_submission: object) -> Submission:
    """A submission whose job is withheld."""
    submission = bench.submission(**of_submission)  # type: ignore[arg-type]  # of whichever field
    answer = await bench.queue.reserve(submission)
    assert (answer.job_id, answer.withheld) == (submission.request.id, True)
    return submission


class TestWithheld:
    async def test_its_submitter_sees_it_queued(self, bench: Bench) -> None:
        job_id = (await reserved(bench)).request.id
        assert (await bench.queue.get("alice", job_id)).state is State.QUEUED
        assert await bench.queue.states([job_id]) == [State.QUEUED]
        assert [job.state for job in await bench.queue.get_many("alice", [job_id])] == [State.QUEUED]  # type: ignore[union-attr]  # None fails the test
        assert [job.request.id for job in await bench.queue.list_jobs("alice", after=None, limit=9)] == [job_id]
        assert await bench.queue.queue_position("alice", job_id) is None

    async def test_no_worker_gets_it_and_no_lane_counts_it(self, bench: Bench) -> None:
        submission = await reserved(bench)
        assert await bench.claim() == []
        load = await bench.queue.load()
        assert (sum(depth.queued for depth in load.lanes), load.delayed, load.running) == (0, 0, 0)
        assert load.cost == submission.request.cost
        await bench.advance(23 * HOUR_MS)
        assert await bench.queue.promote(100) == 0
        assert await bench.claim() == []

    @pytest.mark.parametrize("limits", [QueueLimits(max_live_jobs=2, max_tenant_jobs=1)])
    async def test_it_counts_against_the_bounds(self, bench: Bench) -> None:
        await reserved(bench)
        with pytest.raises(TenantFull):
            await bench.queue.reserve(bench.submission())
        await reserved(bench, tenant="bob")
        with pytest.raises(QueueFull):
            await bench.queue.reserve(bench.submission(tenant="carol"))

    async def test_it_can_be_cancelled_and_is_not_admitted_then(self, bench: Bench) -> None:
        submission = await reserved(bench)
        assert await bench.queue.cancel("alice", submission.request.id) is State.CANCELLED
        assert (await bench.queue.admit(submission)).replayed
        assert await bench.claim() == []
        assert [outcome.state for outcome in await bench.outbox()] == [State.CANCELLED]

    async def test_its_deadline_ends_it(self, bench: Bench) -> None:
        submission = await reserved(bench, ttl_ms=1_000)
        await bench.advance(1_001)
        assert await bench.queue.expire(100) == 1
        assert await bench.state(submission.request.id) is State.EXPIRED
        assert (await bench.queue.admit(submission)).replayed

    async def test_its_viewer_has_the_whole_grace_from_its_admission_on(self, bench: Bench) -> None:
        """Until then it is the log that is waited for, and whoever repeats a request through an outage must not find it cancelled."""
        submission = await reserved(bench, attended=True, key="k")
        await bench.advance(60_000)
        assert await bench.queue.cancel_unattended(100) == 0
        await bench.queue.admit(submission)
        await bench.advance(14_999)
        assert await bench.queue.cancel_unattended(100) == 0
        await bench.advance(2)
        assert await bench.queue.cancel_unattended(100) == 1
        assert await bench.state(submission.request.id) is State.CANCELLED

    async def test_reserving_again_finds_it(self, bench: Bench) -> None:
        first = await reserved(bench, key="k")
        assert await bench.queue.reserve(first) == await bench.queue.reserve(bench.submission(key="k"))
        with pytest.raises(IdempotencyConflict):
            await bench.queue.reserve(bench.submission(key="k", body_hash="other"))
        unkeyed = await reserved(bench)
        assert (await bench.queue.reserve(unkeyed)).withheld

    async def test_accepting_it_puts_it_in_its_lane(self, bench: Bench) -> None:
        """Whoever accepts has no log to wait for: an API that runs without one, beside others."""
        first = await reserved(bench, key="k")
        accepted = await bench.queue.accept(bench.submission(key="k"))
        assert (accepted.job_id, accepted.replayed) == (first.request.id, True)
        assert [claim.request.id for claim in await bench.claim()] == [first.request.id]


class TestAdmit:
    async def test_it_can_be_claimed_then(self, bench: Bench) -> None:
        submission = await reserved(bench)
        assert not (await bench.queue.admit(submission)).replayed
        assert await bench.queue.queue_position("alice", submission.request.id) == 1
        assert [claim.request for claim in await bench.claim()] == [submission.request]

    async def test_twice_is_once(self, bench: Bench) -> None:
        submission = await reserved(bench)
        await bench.queue.admit(submission)
        assert (await bench.queue.admit(submission)).replayed
        [claim] = await bench.claim()
        assert (await bench.queue.admit(submission)).replayed
        await bench.finish(claim.request.id, claim.epoch, 0)
        assert (await bench.queue.admit(submission)).replayed
        assert await bench.claim() == []
        assert not (await bench.queue.reserve(submission)).withheld

    async def test_the_purged_are_not_run_again(self, bench: Bench, limits: QueueLimits) -> None:
        submission = await reserved(bench)
        await bench.queue.cancel("alice", submission.request.id)
        await bench.advance(limits.retention_ms + 1)
        await bench.queue.purge(100)
        assert (await bench.queue.admit(submission)).replayed
        with pytest.raises(JobPurged):
            await bench.queue.get("alice", submission.request.id)

    async def test_one_that_the_store_does_not_know_is_accepted(self, bench: Bench) -> None:
        submission = bench.submission(key="k")
        assert not (await bench.queue.admit(submission)).replayed
        assert [claim.request for claim in await bench.claim()] == [submission.request]
        assert (await bench.queue.accept(submission)).replayed

    async def test_it_keeps_the_place_it_was_reserved_at(self, bench: Bench) -> None:
        first, second = await reserved(bench), await reserved(bench)
        await bench.queue.admit(second)
        await bench.queue.admit(first)
        assert [claim.request.id for claim in await bench.claim()] == [first.request.id, second.request.id]

    async def test_the_same_key_is_the_same_job(self, bench: Bench) -> None:
        first, again = await reserved(bench, key="k"), bench.submission(key="k")
        accepted = await bench.queue.admit(again)
        assert (accepted.job_id, accepted.replayed) == (first.request.id, True)
        assert await bench.claim() == [], "it is not in the log"
        with pytest.raises(IdempotencyConflict):
            await bench.queue.admit(bench.submission(key="k", body_hash="other"))

    @pytest.mark.parametrize("limits", [QueueLimits(max_live_jobs=2, max_tenant_jobs=1)])
    async def test_what_was_promised_is_bounded_with_all_only(self, bench: Bench) -> None:
        first = await reserved(bench)
        await bench.queue.admit(bench.submission())
        third = bench.submission()
        with pytest.raises(QueueFull) as refused:
            await bench.queue.admit(third)
        assert not isinstance(refused.value, TenantFull)
        assert not (await bench.queue.admit(first)).replayed, "it is counted already"
        await bench.queue.cancel("alice", first.request.id)
        assert not (await bench.queue.admit(third)).replayed

    @pytest.mark.parametrize("limits", [QueueLimits(max_live_cost=20)])
    async def test_one_that_could_never_fit_says_so(self, bench: Bench) -> None:
        with pytest.raises(RequestTooLarge):
            await bench.queue.admit(bench.submission(max_tokens=40))

    async def test_batch_lanes_too(self, bench: Bench) -> None:
        submission = await reserved(bench, lane=Lane.BATCH)
        await bench.queue.admit(submission)
        assert [claim.request.lane for claim in await bench.claim()] == [Lane.BATCH]


class TestWithdraw:
    async def test_nothing_of_it_is_left_and_it_is_never_run(self, bench: Bench) -> None:
        submission = await reserved(bench, key="k", attended=True)
        for _ in range(2):
            assert await bench.queue.withdraw("alice", submission.request.id)
        assert (await bench.queue.admit(submission)).replayed
        assert await bench.claim() == []
        assert await bench.queue.list_jobs("alice", after=None, limit=9) == []
        assert (await bench.queue.load()).cost == 0
        assert await bench.outbox() == []
        await reserved(bench, key="k")

    async def test_what_was_admitted_stays(self, bench: Bench) -> None:
        submission = await reserved(bench)
        await bench.queue.admit(submission)
        assert not await bench.queue.withdraw("alice", submission.request.id)
        assert len(await bench.claim()) == 1

    async def test_one_that_the_store_has_lost_is_not_admitted_later(self, bench: Bench) -> None:
        submission = bench.submission()
        assert await bench.queue.withdraw("alice", submission.request.id)
        assert (await bench.queue.admit(submission)).replayed
        assert await bench.claim() == []


class TestLapse:
    async def test_it_is_forgotten_as_if_it_had_never_been(self, bench: Bench) -> None:
        submission = await reserved(bench, key="k", attended=True)
        await bench.advance(HOUR_MS - 1)
        assert await bench.queue.forget_lapsed(100) == 0
        await bench.advance(1)
        assert await bench.queue.forget_lapsed(100) == 1
        with pytest.raises(JobNotFound):
            await bench.queue.get("alice", submission.request.id)
        assert (await bench.queue.load()).cost == 0
        assert await bench.outbox() == []
        assert not (await bench.queue.admit(submission)).replayed, "what the log has of it is news"
        assert [claim.request for claim in await bench.claim()] == [submission.request]

    async def test_what_was_admitted_does_not_lapse(self, bench: Bench) -> None:
        await bench.queue.admit(await reserved(bench))
        await bench.advance(HOUR_MS)
        assert await bench.queue.forget_lapsed(100) == 0
        assert len(await bench.claim()) == 1

    async def test_a_sweep_is_bounded(self, bench: Bench) -> None:
        for _ in range(3):
            await reserved(bench)
        await bench.advance(HOUR_MS)
        assert [await bench.queue.forget_lapsed(2) for _ in range(3)] == [2, 1, 0]


class TestGenerations:
    async def test_epochs_are_above_those_of_every_earlier_one(self, bench: Bench) -> None:
        assert await bench.queue.generation() == 0
        before = await bench.submit()
        await bench.queue.begin_generation(3)
        await bench.queue.begin_generation(2)
        assert await bench.queue.generation() == 3
        after = await bench.submit()
        epochs = {claim.request.id: claim.epoch for claim in await bench.claim()}
        assert epochs == {before: 1, after: 3 * GENERATION_EPOCHS + 1}

    async def test_a_whole_life_in_the_last_of_them(self, bench: Bench) -> None:
        await bench.queue.begin_generation(MAX_GENERATION)
        job_id = await bench.submit()
        [claim] = await bench.claim(nonce="n")
        assert await bench.claim(nonce="n") == [claim]
        assert claim.epoch == MAX_GENERATION * GENERATION_EPOCHS + 1
        await bench.append(job_id, claim.epoch, 0, tokens=2)
        await bench.release(job_id, claim.epoch)
        [claim] = await bench.claim()
        assert claim.epoch == MAX_GENERATION * GENERATION_EPOCHS + 3
        await bench.append(job_id, claim.epoch, 2)
        await bench.finish(job_id, claim.epoch, 3)
        job = await bench.queue.get("alice", job_id)
        assert (job.state, job.committed, job.epoch) == (State.DONE, 3, claim.epoch)

    async def test_one_beyond_what_an_epoch_can_say(self, bench: Bench) -> None:
        with pytest.raises(ValueError, match=f"generation must be 0 to {MAX_GENERATION}"):
            await bench.queue.begin_generation(MAX_GENERATION + 1)

    async def test_a_tenant_pays_for_its_first_claim_in_any(self, bench: Bench) -> None:
        """Fairness charges a job once."""
        await bench.queue.begin_generation(1)
        for _ in range(2):
            await bench.submit(tenant="alice", max_tokens=100)
            await bench.submit(tenant="bob", max_tokens=100)
        taken = [(await bench.claim(max_jobs=1))[0].request.tenant for _ in range(4)]
        assert taken[0] != taken[1]
        assert taken[2] != taken[3]
