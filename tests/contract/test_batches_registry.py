"""What `headrace/batch_ports.py` promises to those who submit batches, and of purging."""

import asyncio
from dataclasses import replace

import pytest

from headrace.batch import BATCH_ENDED, BATCH_TRANSITIONS, Batch, BatchStatus, LineFault
from headrace.batch_ports import Stored
from headrace.errors import BatchLeaseLost, BatchNotCancellable, BatchNotFound, IdempotencyConflict
from headrace.request import Endpoint
from headrace.testing.registry_bench import BATCH_LEASE_MS, RegistryBench

UNKNOWN = "batch_" + "f" * 32
CANCELLABLE = [status for status in BatchStatus if BatchStatus.CANCELLING in BATCH_TRANSITIONS[status]]
AGAIN_MS = 10_000


async def standing(registries: RegistryBench, batch_id: str) -> BatchStatus | None:
    return (await registries.batches.standing([batch_id]))[0]


class TestCreate:
    async def test_a_new_batch_is_validated_next(self, registries: RegistryBench) -> None:
        new = registries.new()
        stored = await registries.create(new, window_ms=60_000)
        assert (stored.id, stored.replayed) == (new.id, False)
        now = registries.now_ms
        expected = Batch(new=new, status=BatchStatus.VALIDATING, created_ms=now, expires_ms=now + 60_000)
        assert await registries.batches.get("alice", new.id) == expected
        assert await registries.batches.dispatch(10, AGAIN_MS) == [new.id]

    @pytest.mark.parametrize("metadata", [None, {}, {"": "", 'né\u2028"\\\n': "😀\x00"}])
    async def test_what_was_asked_for_comes_back_as_it_was(self, registries: RegistryBench, metadata: dict[str, str] | None) -> None:
        new = registries.new(metadata=metadata, output_ttl_s=3_600, endpoint=Endpoint.COMPLETIONS, tenant="a:b")
        await registries.create(new)
        assert (await registries.batches.get("a:b", new.id)).new == new

    async def test_the_same_key_and_body_answer_with_the_first(self, registries: RegistryBench) -> None:
        first, second = registries.new(), registries.new()
        await registries.create(first, key="k")
        again = await registries.create(second, key="k")
        assert (again.id, again.replayed) == (first.id, True)
        assert await standing(registries, second.id) is None

    async def test_a_replay_answers_with_the_batch_as_it_stands(self, registries: RegistryBench) -> None:
        new = registries.new()
        await registries.create(new, key="k")
        await registries.bring(new.id, BatchStatus.FAILED, await registries.held(new.id))
        assert (await registries.create(registries.new(), key="k")).id == new.id
        assert (await registries.create(new)).replayed
        assert await standing(registries, new.id) is BatchStatus.FAILED
        assert await registries.batches.dispatch(10, AGAIN_MS) == []

    async def test_the_same_key_with_another_body_is_a_conflict(self, registries: RegistryBench) -> None:
        first = registries.new()
        await registries.create(first, key="k")
        with pytest.raises(IdempotencyConflict, match=first.id):
            await registries.create(registries.new(), key="k", body_hash="other")

    async def test_a_key_belongs_to_its_tenant(self, registries: RegistryBench) -> None:
        await registries.create(registries.new(tenant="a"), key="b:c")
        for tenant, key in (("b", "b:c"), ("a:b", "c")):
            assert not (await registries.create(registries.new(tenant=tenant), key=key, body_hash="other")).replayed

    async def test_what_a_key_made(self, registries: RegistryBench) -> None:
        async def made(key: str, body_hash: str = "hash", tenant: str = "alice") -> Stored | None:
            return await registries.batches.made_before(tenant, key, body_hash)

        assert await made("k") is None
        first = await registries.create(registries.new(), key="k")
        assert await made("k") == Stored(first.id, replayed=True)
        with pytest.raises(IdempotencyConflict, match=first.id):
            await made("k", body_hash="other")
        assert (await made("K"), await made("k", tenant="bob"), await made("")) == (None, None, None)

    async def test_an_empty_key_is_a_key(self, registries: RegistryBench) -> None:
        await registries.create(registries.new(), key="")
        assert (await registries.create(registries.new(), key="")).replayed
        assert not (await registries.create(registries.new())).replayed

    async def test_without_a_key_the_id_is_one(self, registries: RegistryBench) -> None:
        new = registries.new()
        assert [(await registries.create(new)).replayed for _ in range(2)] == [False, True]
        assert len(await registries.batches.list_batches("alice", after=None, limit=10)) == 1

    async def test_concurrent_calls_under_one_key_make_one_batch(self, registries: RegistryBench) -> None:
        stored = await asyncio.gather(*(registries.create(registries.new(), key="k") for _ in range(20)))
        assert len({one.id for one in stored}) == 1
        assert sum(not one.replayed for one in stored) == 1


class TestReads:
    @pytest.mark.parametrize("batch_id", [UNKNOWN, "", "nonsense"])
    async def test_an_unknown_id(self, registries: RegistryBench, batch_id: str) -> None:
        for call in (registries.batches.get, registries.batches.cancel):
            with pytest.raises(BatchNotFound):
                await call("alice", batch_id)
        with pytest.raises(BatchNotFound):
            await registries.batches.list_batches("alice", after=batch_id, limit=10)
        assert await registries.acquire(batch_id) is None
        with pytest.raises(BatchLeaseLost):
            await registries.update(batch_id, 1)
        await registries.batches.release(batch_id, 1, 0)
        assert await standing(registries, batch_id) is None
        assert await registries.batches.dispatch(10, AGAIN_MS) == []

    async def test_another_tenants_batch_does_not_exist(self, registries: RegistryBench) -> None:
        batch_id, other = await registries.created(), await registries.created(tenant="bob")
        for call in (registries.batches.get, registries.batches.cancel):
            with pytest.raises(BatchNotFound):
                await call("bob", batch_id)
        with pytest.raises(BatchNotFound):
            await registries.batches.list_batches("bob", after=batch_id, limit=10)
        assert [batch.new.id for batch in await registries.batches.list_batches("bob", after=None, limit=10)] == [other]
        assert await registries.batches.list_batches("nobody", after=None, limit=10) == []
        assert await standing(registries, batch_id) is BatchStatus.VALIDATING

    async def test_pages_are_newest_first_without_gaps_though_the_clock_stands(self, registries: RegistryBench) -> None:
        ids = [await registries.created() for _ in range(7)]
        seen: list[str] = []
        while page := await registries.batches.list_batches("alice", after=seen[-1] if seen else None, limit=3):
            assert len(page) <= 3
            seen += [batch.new.id for batch in page]
        assert seen == ids[::-1]

    async def test_a_list_shows_what_get_shows(self, registries: RegistryBench) -> None:
        batch_id = await registries.created()
        await registries.update(batch_id, await registries.held(batch_id), faults=(LineFault(code="c", message="m", line=1),), model="m")
        assert await registries.batches.list_batches("alice", after=None, limit=1) == [await registries.batches.get("alice", batch_id)]

    async def test_where_batches_stand_whoevers_they_are(self, registries: RegistryBench) -> None:
        a, b = await registries.created(), await registries.created(tenant="bob")
        await registries.batches.cancel("alice", a)
        states = await registries.batches.standing([b, UNKNOWN, a])
        assert states == [BatchStatus.VALIDATING, None, BatchStatus.CANCELLING]
        assert await registries.batches.standing([]) == []

    async def test_a_batch_of_an_unknown_version_hides_no_other(self, registries: RegistryBench) -> None:
        strange, known = await registries.created(), await registries.created()
        await registries.raw.hset(f"headrace:{{batches}}:record:{strange}", "status", "paused")
        assert [batch.new.id for batch in await registries.batches.list_batches("alice", after=None, limit=10)] == [known]


class TestCancel:
    @pytest.mark.parametrize("status", CANCELLABLE)
    async def test_a_batch_on_its_way(self, registries: RegistryBench, status: BatchStatus) -> None:
        batch_id = await registries.created()
        epoch = await registries.held(batch_id)
        await registries.bring(batch_id, status, epoch)
        before = await registries.batches.get("alice", batch_id)
        await registries.advance(5)
        cancelled = await registries.batches.cancel("alice", batch_id)
        assert cancelled == replace(before, status=BatchStatus.CANCELLING, cancelling_ms=registries.now_ms)
        await registries.advance(5)
        assert await registries.batches.cancel("alice", batch_id) == cancelled
        assert await registries.batches.get("alice", batch_id) == cancelled

    @pytest.mark.parametrize("status", sorted(BATCH_ENDED | {BatchStatus.FINALIZING}))
    async def test_too_late(self, registries: RegistryBench, status: BatchStatus) -> None:
        batch_id = await registries.created()
        await registries.bring(batch_id, status, await registries.held(batch_id))
        before = await registries.batches.get("alice", batch_id)
        with pytest.raises(BatchNotCancellable, match=status):
            await registries.batches.cancel("alice", batch_id)
        assert await registries.batches.get("alice", batch_id) == before

    async def test_one_that_waits_is_due_at_once(self, registries: RegistryBench) -> None:
        batch_id = await registries.created()
        await registries.batches.release(batch_id, await registries.held(batch_id), delay_ms=60_000)
        assert await registries.batches.dispatch(10, AGAIN_MS) == []
        await registries.batches.cancel("alice", batch_id)
        assert await registries.batches.dispatch(10, AGAIN_MS) == [batch_id]
        await registries.batches.cancel("alice", batch_id)
        assert await registries.batches.dispatch(10, AGAIN_MS) == [], "somebody was told already"

    async def test_one_that_is_held_is_cancelled_through_its_holder(self, registries: RegistryBench) -> None:
        batch_id = await registries.created()
        epoch = await registries.held(batch_id)
        await registries.batches.cancel("alice", batch_id)
        assert await registries.batches.dispatch(10, AGAIN_MS) == [], "it is being worked on"
        assert (await registries.update(batch_id, epoch)).status is BatchStatus.CANCELLING
        await registries.batches.release(batch_id, epoch, delay_ms=1_000)
        assert await registries.batches.dispatch(10, AGAIN_MS) == [], "its holder knew what he waits for"

    @pytest.mark.parametrize("lapse_ms", [0, BATCH_LEASE_MS])
    async def test_a_holder_who_has_not_heard_of_it_delays_nothing(self, registries: RegistryBench, lapse_ms: int) -> None:
        batch_id = await registries.created()
        epoch = await registries.held(batch_id)
        await registries.advance(lapse_ms)
        await registries.batches.cancel("alice", batch_id)
        await registries.batches.release(batch_id, epoch, delay_ms=60_000)
        assert await registries.batches.dispatch(10, AGAIN_MS) == [batch_id]
        # The next holder sees it from the start, and may take his time.
        await registries.batches.release(batch_id, await registries.held(batch_id), delay_ms=60_000)
        assert await registries.batches.dispatch(10, AGAIN_MS) == []

    async def test_whoever_takes_over_has_heard_of_it(self, registries: RegistryBench) -> None:
        batch_id = await registries.created()
        await registries.held(batch_id, "a")
        await registries.batches.cancel("alice", batch_id)
        await registries.advance(BATCH_LEASE_MS)
        await registries.batches.release(batch_id, await registries.held(batch_id, "b"), delay_ms=60_000)
        assert await registries.batches.dispatch(10, AGAIN_MS) == []

    async def test_one_whose_lease_ran_out_is_due_at_once(self, registries: RegistryBench) -> None:
        batch_id = await registries.created()
        await registries.held(batch_id, lease_ms=100)
        await registries.advance(100)
        assert await registries.batches.dispatch(10, AGAIN_MS) == [batch_id]
        await registries.batches.cancel("alice", batch_id)
        assert await registries.batches.dispatch(10, AGAIN_MS) == [batch_id]


class TestPurge:
    async def test_only_what_ended_long_ago(self, registries: RegistryBench) -> None:
        live, early, late = [await registries.created() for _ in range(3)]
        await registries.bring(early, BatchStatus.FAILED, await registries.held(early))
        await registries.advance(1_000)
        await registries.bring(late, BatchStatus.CANCELLED, await registries.held(late))
        await registries.advance(58_999)
        assert await registries.batches.purge_ended(10, 60_000) == []
        await registries.advance(1)
        assert await registries.batches.purge_ended(10, 60_000) == [early]
        assert await registries.batches.purge_ended(10, 60_000) == []
        assert await registries.batches.standing([live, early, late]) == [BatchStatus.VALIDATING, None, BatchStatus.CANCELLED]
        with pytest.raises(BatchNotFound):
            await registries.batches.get("alice", early)
        with pytest.raises(BatchNotFound):
            await registries.batches.list_batches("alice", after=early, limit=10)
        await registries.advance(10**12)
        assert await registries.batches.purge_ended(10, 60_000) == [late]
        assert await standing(registries, live) is BatchStatus.VALIDATING

    async def test_it_leaves_nothing_behind_and_frees_the_key(self, registries: RegistryBench) -> None:
        new = registries.new()
        await registries.create(new, key="k")
        await registries.bring(new.id, BatchStatus.COMPLETED, await registries.held(new.id))
        await registries.advance(10**12)
        assert (await registries.create(registries.new(), key="k")).id == new.id
        await registries.batches.purge_ended(10, 0)
        left = {key async for key in registries.raw.scan_iter(match="headrace:{batches}:*")}
        assert left == {"headrace:{batches}:arrival"}
        assert not (await registries.create(registries.new(), key="k", body_hash="other")).replayed

    async def test_it_is_bounded_and_the_oldest_go_first(self, registries: RegistryBench) -> None:
        ids = []
        for _ in range(5):
            ids.append(await registries.created())
            await registries.bring(ids[-1], BatchStatus.FAILED, await registries.held(ids[-1]))
            await registries.advance(1)
        assert [await registries.batches.purge_ended(2, 0) for _ in range(4)] == [ids[:2], ids[2:4], ids[4:], []]
