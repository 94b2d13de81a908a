"""What `headrace/ports.py` promises when there is more work than room, for every adapter."""

import asyncio

import pytest

from headrace.errors import QueueFull, RequestTooLarge, TenantFull
from headrace.ports import Accepted
from headrace.queues.meter import BUCKET_MS
from headrace.queues.rules import QueueLimits
from headrace.state import LIVE, State
from headrace.testing.bench import LEASE_MS, Bench

FEW_EACH = QueueLimits(max_live_jobs=5, max_tenant_jobs=2)
CHEAP_EACH = QueueLimits(max_live_cost=60, max_tenant_cost=25)
FOUR = QueueLimits(max_live_jobs=4)
HUNDRED_TOKENS = QueueLimits(max_live_cost=100)


async def refused(bench: Bench, **of_submission: object) -> QueueFull:
    with pytest.raises(QueueFull) as caught:
        await bench.submit(**of_submission)
    return caught.value


async def end(bench: Bench, count: int) -> None:
    for claim in await bench.claim(max_jobs=count):
        await bench.finish(claim.request.id, claim.epoch, 0)


class TestTenants:
    @pytest.mark.parametrize("limits", [FEW_EACH])
    async def test_jobs_of_one_tenant(self, bench: Bench) -> None:
        first = await bench.submit()
        await bench.submit()
        error = await refused(bench)
        assert isinstance(error, TenantFull)
        assert str(error) == "your tenant has 2 live jobs, the limit is 2"
        await bench.submit(tenant="bob")
        await bench.queue.cancel("alice", first)
        await bench.submit()

    @pytest.mark.parametrize("limits", [CHEAP_EACH])
    async def test_cost_of_one_tenant(self, bench: Bench) -> None:
        await bench.submit()
        await bench.submit()
        error = await refused(bench)
        assert isinstance(error, TenantFull)
        assert str(error) == "your tenant has 22 tokens of live jobs, the limit is 25 and this one needs 11"
        await bench.submit(max_tokens=1, prompt_ids=(1, 2))

    @pytest.mark.parametrize("limits", [FEW_EACH])
    async def test_a_full_queue_is_nobodys_own_fault(self, bench: Bench) -> None:
        for tenant in ("alice", "alice", "bob", "bob", "carol"):
            await bench.submit(tenant=tenant)
        for tenant in ("alice", "dave"):
            error = await refused(bench, tenant=tenant)
            assert type(error) is QueueFull
            assert str(error) == "the queue is full: 5 live jobs, the limit is 5"

    @pytest.mark.parametrize("limits", [CHEAP_EACH])
    @pytest.mark.parametrize(("max_tokens", "limit"), [(23, 25), (58, 60)])
    async def test_what_never_fits_is_not_told_to_wait(self, bench: Bench, max_tokens: int, limit: int) -> None:
        with pytest.raises(RequestTooLarge, match=f"needs {max_tokens + 3} tokens, prompt and answer; at most {limit}"):
            await bench.submit(max_tokens=max_tokens)
        await bench.submit(max_tokens=22)

    @pytest.mark.parametrize("limits", [FEW_EACH])
    async def test_a_burst_passes_the_bound_by_none(self, bench: Bench) -> None:
        submissions = [bench.submission() for _ in range(20)]
        answers = await asyncio.gather(*map(bench.queue.accept, submissions), return_exceptions=True)
        assert sum(isinstance(answer, TenantFull) for answer in answers) == 18
        # One that was refused may be sent again under the same id.
        for submission, answer in zip(submissions, answers, strict=True):
            if not isinstance(answer, TenantFull):
                await bench.queue.cancel("alice", submission.request.id)
        again = await asyncio.gather(*map(bench.queue.accept, submissions), return_exceptions=True)
        assert sum(isinstance(answer, Accepted) and not answer.replayed for answer in again) == 2

    @pytest.mark.parametrize("limits", [FEW_EACH])
    async def test_a_refused_key_is_free(self, bench: Bench) -> None:
        await bench.submit()
        blocking = await bench.submit()
        await refused(bench, key="k")
        await bench.queue.cancel("alice", blocking)
        assert not (await bench.queue.accept(bench.submission(key="k", body_hash="other"))).replayed


@pytest.mark.parametrize("limits", [FOUR])
async def test_what_was_accepted_is_never_shed(bench: Bench) -> None:
    """Jobs come back to a queue that is full, and it stays theirs: the bound is the door's and nobody else's."""
    ids = [await bench.submit() for _ in range(4)]
    await bench.claim("w1", max_jobs=2)
    await bench.claim("w2", max_jobs=2)
    await refused(bench)
    await bench.release(ids[0], 1, delay_ms=1_000)
    await bench.queue.reap_worker("w1")
    await bench.advance(LEASE_MS)
    await bench.queue.reap_expired(10)
    await bench.queue.promote(10)
    await refused(bench)
    assert {await bench.state(job_id) for job_id in ids} <= set(LIVE)
    await end(bench, 4)
    assert {await bench.state(job_id) for job_id in ids} == {State.DONE}


class TestWaiting:
    @pytest.mark.parametrize("limits", [FOUR])
    async def test_as_long_as_jobs_took_to_leave(self, bench: Bench) -> None:
        for _ in range(4):
            await bench.submit()
        await bench.advance(10_000)
        await end(bench, 2)
        for _ in range(2):
            await bench.submit()
        assert (await refused(bench)).retry_after == 5.0

    @pytest.mark.parametrize("limits", [HUNDRED_TOKENS])
    async def test_as_long_as_tokens_took_to_leave(self, bench: Bench) -> None:
        for size in (7, 27, 57):  # and 3 of the prompt: 10, 30, 60
            await bench.submit(max_tokens=size)
        await bench.advance(8_000)
        await end(bench, 2)
        assert (await refused(bench, max_tokens=57)).retry_after == 4.0, "20 more than there is room for; 40 left in 8 s"

    @pytest.mark.parametrize("limits", [FEW_EACH])
    async def test_a_tenant_waits_for_its_own(self, bench: Bench) -> None:
        for tenant in ("bob", "alice", "alice"):
            await bench.submit(tenant=tenant)
        await bench.advance(4_000)
        for job in await bench.queue.list_jobs("bob", after=None, limit=1):
            await bench.queue.cancel("bob", job.request.id)
        await bench.advance(4_000)
        await bench.queue.cancel("alice", (await bench.queue.list_jobs("alice", after=None, limit=1))[0].request.id)
        await bench.submit()
        assert (await refused(bench)).retry_after == 8.0

    @pytest.mark.parametrize("limits", [FOUR])
    async def test_nothing_leaves(self, bench: Bench) -> None:
        for _ in range(4):
            await bench.submit()
        waits = []
        for ms in (0, 6_500, 60_000, 3_600_000):
            await bench.advance(ms)
            waits.append((await refused(bench)).retry_after)
        assert waits == [1.0, 6.5, 66.5, 120.0]

    @pytest.mark.parametrize("limits", [FOUR])
    async def test_idle_time_is_not_slowness(self, bench: Bench) -> None:
        await bench.submit()
        await end(bench, 1)
        await bench.advance(20_000)
        for _ in range(4):
            await bench.submit()
        await bench.advance(2_000)
        await end(bench, 1)
        await bench.submit()
        assert (await refused(bench)).retry_after == 2.0

    @pytest.mark.parametrize("limits", [FOUR])
    async def test_the_last_bucket_counts_and_older_ones_do_not(self, bench: Bench) -> None:
        async def leave_one() -> None:
            await end(bench, 1)
            await bench.submit()

        for _ in range(4):
            await bench.submit()
        await leave_one()
        await bench.advance(BUCKET_MS)
        for _ in range(3):
            await leave_one()
        await bench.advance(BUCKET_MS)
        await leave_one()
        await bench.advance(10_000)
        assert (await refused(bench)).retry_after == (BUCKET_MS + 10_000) / 1_000 / 4
        await bench.advance(BUCKET_MS)
        assert (await refused(bench)).retry_after == (BUCKET_MS + 10_000) / 1_000
        await bench.advance(BUCKET_MS)
        assert (await refused(bench)).retry_after == (2 * BUCKET_MS + 10_000) / 1_000, "nothing left since"
        await leave_one()
        await bench.advance(500)
        assert (await refused(bench)).retry_after == 1.0, "it goes on, and the standstill is forgotten"
