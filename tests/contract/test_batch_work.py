"""What `headrace/batch_ports.py` promises to those who work on batches."""

from dataclasses import fields, replace
from typing import Any

import pytest

from headrace.batch import BATCH_ENDED, BATCH_TRANSITIONS, Batch, BatchStatus, LineFault, Progress
from headrace.errors import BatchLeaseLost
from headrace.testing.registry_bench import BATCH_LEASE_MS, RegistryBench, paths

AGAIN_MS = 10_000


class TestDispatch:
    async def test_each_is_due_again_until_somebody_takes_it(self, registries: RegistryBench) -> None:
        a, b = await registries.created(), await registries.created()
        assert sorted(await registries.batches.dispatch(10, AGAIN_MS)) == sorted([a, b])
        assert await registries.batches.dispatch(10, AGAIN_MS) == []
        await registries.held(a)
        await registries.advance(AGAIN_MS - 1)
        assert await registries.batches.dispatch(10, AGAIN_MS) == []
        await registries.advance(1)
        assert await registries.batches.dispatch(10, AGAIN_MS) == [b]

    async def test_it_is_bounded_and_the_longest_due_come_first(self, registries: RegistryBench) -> None:
        ids = []
        for _ in range(5):
            ids.append(await registries.created())
            await registries.advance(1)
        assert [await registries.batches.dispatch(2, AGAIN_MS) for _ in range(4)] == [ids[:2], ids[2:4], ids[4:], []]

    async def test_a_lease_that_ran_out(self, registries: RegistryBench) -> None:
        batch_id = await registries.created()
        epoch = await registries.held(batch_id, lease_ms=1_000)
        await registries.advance(999)
        assert await registries.batches.dispatch(10, AGAIN_MS) == []
        await registries.update(batch_id, epoch, lease_ms=1_000)
        await registries.advance(999)
        assert await registries.batches.dispatch(10, AGAIN_MS) == []
        await registries.advance(1)
        assert await registries.batches.dispatch(10, AGAIN_MS) == [batch_id]

    @pytest.mark.parametrize("status", sorted(BATCH_ENDED))
    async def test_an_ended_batch_never(self, registries: RegistryBench, status: BatchStatus) -> None:
        batch_id = await registries.created()
        epoch = await registries.held(batch_id)
        await registries.bring(batch_id, status, epoch)
        await registries.update(batch_id, epoch)
        await registries.batches.release(batch_id, epoch, 0)
        await registries.advance(10**9)
        assert await registries.batches.dispatch(10, AGAIN_MS) == []


class TestLive:
    async def test_those_that_have_not_ended_are_counted_held_or_not(self, registries: RegistryBench) -> None:
        assert await registries.batches.live() == 0
        await registries.created()
        held, ended = await registries.created(), await registries.created()
        await registries.held(held)
        assert await registries.batches.live() == 3
        for count, status in ((3, BatchStatus.FINALIZING), (2, BatchStatus.COMPLETED)):
            epoch = await registries.held(ended)
            for step in paths()[status] if count == 3 else [status]:
                await registries.update(ended, epoch, status=step)
            assert await registries.batches.live() == count


class TestStalled:
    async def test_counted_from_a_turn_without_kafka_to_the_next_that_gets_on(self, registries: RegistryBench) -> None:
        batch_id, other = await registries.created(), await registries.created()
        await registries.batches.release(other, await registries.held(other), 0)
        assert await registries.batches.stalled() == 0
        for _ in range(2):
            epoch = await registries.held(batch_id)
            for _ in range(2):  # a lost reply
                await registries.batches.release(batch_id, epoch, 0, wants_log=True)
            assert await registries.batches.stalled() == 1
        await registries.batches.release(batch_id, epoch - 1, 0)
        epoch = await registries.held(batch_id)
        await registries.update(batch_id, epoch)
        assert await registries.batches.stalled() == 1, "who has taken it may wait as well"
        await registries.batches.release(batch_id, epoch, 0)
        assert await registries.batches.stalled() == 0

    @pytest.mark.parametrize("status", [status for status in BatchStatus if status is not BatchStatus.VALIDATING])
    async def test_whatever_status_it_reaches_it_has_got_on(self, registries: RegistryBench, status: BatchStatus) -> None:
        batch_id = await registries.created()
        *way, last = paths()[status]
        epoch = await registries.held(batch_id)
        if way:
            await registries.bring(batch_id, way[-1], epoch)
        await registries.batches.release(batch_id, epoch, 0, wants_log=True)
        assert await registries.batches.stalled() == 1
        if last is BatchStatus.CANCELLING:
            await registries.batches.cancel("alice", batch_id)
        else:
            await registries.update(batch_id, await registries.held(batch_id), status=last)
        assert await registries.batches.stalled() == 0


class TestLease:
    async def test_one_holder_at_a_time(self, registries: RegistryBench) -> None:
        batch_id = await registries.created()
        lease = await registries.acquire(batch_id, "a")
        assert lease is not None
        assert (lease.batch, lease.epoch) == (await registries.batches.get("alice", batch_id), 1)
        assert await registries.acquire(batch_id, "b") is None

    async def test_the_same_holder_gets_the_same_epoch_and_a_whole_lease(self, registries: RegistryBench) -> None:
        batch_id = await registries.created()
        first = await registries.acquire(batch_id, "a", 1_000)
        await registries.advance(999)
        assert await registries.acquire(batch_id, "a", 1_000) == first
        await registries.advance(999)
        assert await registries.acquire(batch_id, "b") is None
        assert await registries.batches.dispatch(10, AGAIN_MS) == []

    @pytest.mark.parametrize("holder", ["a", "b"])
    async def test_a_lapsed_lease_is_taken_under_a_new_epoch(self, registries: RegistryBench, holder: str) -> None:
        batch_id = await registries.created()
        first = await registries.held(batch_id, "a", lease_ms=1_000)
        await registries.advance(1_000)
        assert await registries.held(batch_id, holder) == first + 1
        with pytest.raises(BatchLeaseLost):
            await registries.update(batch_id, first, model="old")
        await registries.batches.release(batch_id, first, 0)
        assert (await registries.update(batch_id, first + 1)).model is None
        assert await registries.acquire(batch_id, "c") is None, "the old holder gave back what is not his"

    async def test_a_lapsed_lease_that_nobody_took_goes_on(self, registries: RegistryBench) -> None:
        batch_id = await registries.created()
        epoch = await registries.held(batch_id, "a", lease_ms=1_000)
        await registries.advance(5_000)
        assert (await registries.update(batch_id, epoch, lease_ms=1_000, model="m")).model == "m"
        assert await registries.acquire(batch_id, "b") is None
        assert await registries.batches.dispatch(10, AGAIN_MS) == []

    @pytest.mark.parametrize("delay_ms", [0, 5_000])
    async def test_released(self, registries: RegistryBench, delay_ms: int) -> None:
        batch_id = await registries.created()
        epoch = await registries.held(batch_id, "a")
        await registries.batches.release(batch_id, epoch, delay_ms)
        if delay_ms:
            await registries.advance(delay_ms - 1)
            await registries.batches.release(batch_id, epoch, delay_ms)  # a lost reply puts nothing off
            assert await registries.batches.dispatch(10, AGAIN_MS) == []
            await registries.advance(1)
        assert await registries.batches.dispatch(10, AGAIN_MS) == [batch_id]
        with pytest.raises(BatchLeaseLost):
            await registries.update(batch_id, epoch)
        assert await registries.held(batch_id, "a") == epoch + 1

    async def test_a_batch_may_be_taken_before_it_is_due(self, registries: RegistryBench) -> None:
        batch_id = await registries.created()
        await registries.batches.release(batch_id, await registries.held(batch_id), 60_000)
        assert await registries.acquire(batch_id, "b") is not None

    @pytest.mark.parametrize("status", sorted(BATCH_ENDED))
    async def test_an_ended_batch_is_nobodys(self, registries: RegistryBench, status: BatchStatus) -> None:
        batch_id = await registries.created()
        lost = await registries.held(batch_id, "a")
        await registries.advance(BATCH_LEASE_MS)
        epoch = await registries.held(batch_id, "b")
        await registries.bring(batch_id, status, epoch)
        assert await registries.acquire(batch_id, "b") is None
        assert await registries.acquire(batch_id, "c") is None
        for other in (lost, epoch + 1, 0):
            with pytest.raises(BatchLeaseLost):
                await registries.update(batch_id, other)

    async def test_no_lease_no_update(self, registries: RegistryBench) -> None:
        batch_id = await registries.created()
        for epoch in (0, 1):
            with pytest.raises(BatchLeaseLost):
                await registries.update(batch_id, epoch, model="m")
        assert (await registries.batches.get("alice", batch_id)).model is None


class TestUpdate:
    async def test_each_field_alone_and_the_rest_as_it_was(self, registries: RegistryBench) -> None:
        batch_id = await registries.created()
        epoch = await registries.held(batch_id)
        expected = await registries.batches.get("alice", batch_id)
        faults = (LineFault(code="c", message='né\u2028"\\\n😀\x00', param="p", line=1), LineFault(code="d", message=""))
        progress = Progress(total=1, completed=2, failed=3, input_tokens=2**53, output_tokens=5, submitted=6)
        steps: list[dict[str, Any]] = [
            {"progress": progress},
            {"model": "a/b:c"},
            {"faults": faults},
            {"output_file_id": "file-1"},
            {"error_file_id": "file-2"},
            {"faults": ()},
            {"progress": Progress()},
            {"model": ""},
        ]
        for step in steps:
            expected = replace(expected, **step)
            for _ in range(2):  # a lost reply
                assert await registries.update(batch_id, epoch, **step) == expected
            assert await registries.batches.get("alice", batch_id) == expected
        assert await registries.update(batch_id, epoch) == expected

    async def test_a_thousand_faults(self, registries: RegistryBench) -> None:
        batch_id = await registries.created()
        faults = tuple(LineFault(code="invalid_value", message="m" * 200, param="p", line=line) for line in range(1, 1_001))
        batch = await registries.update(batch_id, await registries.held(batch_id), faults=faults, status=BatchStatus.FAILED)
        assert (batch.faults, batch.status) == (faults, BatchStatus.FAILED)

    @pytest.mark.parametrize("source", BatchStatus)
    async def test_only_what_a_status_leads_to_is_taken(self, registries: RegistryBench, source: BatchStatus) -> None:
        for wanted in BatchStatus:
            batch_id = await registries.created()
            epoch = await registries.held(batch_id)
            await registries.bring(batch_id, source, epoch)
            before = await registries.batches.get("alice", batch_id)
            await registries.advance(7)
            after = await registries.update(batch_id, epoch, status=wanted, model="m")
            if source in BATCH_ENDED:
                assert after == before, (source, wanted)
            elif wanted in BATCH_TRANSITIONS[source]:
                stamp: dict[str, Any] = {f"{wanted}_ms": registries.now_ms}
                assert after == replace(before, model="m", status=wanted, **stamp), (source, wanted)
            else:
                assert after == replace(before, model="m"), (source, wanted)
            assert await registries.batches.get("alice", batch_id) == after

    @pytest.mark.parametrize("status", [status for status in BatchStatus if status is not BatchStatus.VALIDATING])
    async def test_every_status_on_the_way_is_stamped_once(self, registries: RegistryBench, status: BatchStatus) -> None:
        batch_id = await registries.created()
        epoch = await registries.held(batch_id)
        stamps = {"created_ms": registries.now_ms, "expires_ms": registries.now_ms + 86_400_000}
        for step in paths()[status]:
            await registries.advance(1)
            stamps[f"{step}_ms"] = registries.now_ms
            if step is BatchStatus.CANCELLING:
                await registries.batches.cancel("alice", batch_id)
            for _ in range(2):  # a lost reply, also of the update that ends the batch
                await registries.update(batch_id, epoch, status=step)
                await registries.advance(1)
        batch = await registries.batches.get("alice", batch_id)
        times = {field.name: getattr(batch, field.name) for field in fields(Batch) if field.name.endswith("_ms")}
        assert {name: ms for name, ms in times.items() if ms is not None} == stamps

    @pytest.mark.parametrize("status", sorted(BATCH_ENDED))
    async def test_the_last_answer_is_given_again(self, registries: RegistryBench, status: BatchStatus) -> None:
        batch_id = await registries.created()
        epoch = await registries.held(batch_id)
        *way, last = paths()[status]
        if way:
            await registries.bring(batch_id, way[-1], epoch)
        progress = Progress(total=3, completed=3)
        answer = await registries.update(batch_id, epoch, status=last, progress=progress)
        assert (answer.status, answer.progress) == (status, progress)
        await registries.advance(10 * BATCH_LEASE_MS)
        assert await registries.update(batch_id, epoch, status=last, progress=progress) == answer
        assert await registries.update(batch_id, epoch, progress=Progress(), model="late") == answer

    async def test_a_cancel_beats_the_holders_next_step(self, registries: RegistryBench) -> None:
        batch_id = await registries.created()
        epoch = await registries.held(batch_id)
        await registries.bring(batch_id, BatchStatus.IN_PROGRESS, epoch)
        await registries.batches.cancel("alice", batch_id)
        progress = Progress(total=5, completed=2)
        batch = await registries.update(batch_id, epoch, status=BatchStatus.FINALIZING, progress=progress)
        assert (batch.status, batch.progress, batch.finalizing_ms) == (BatchStatus.CANCELLING, progress, None)
        assert (await registries.update(batch_id, epoch, status=BatchStatus.CANCELLED)).status is BatchStatus.CANCELLED
