"""What a batch waits for: room in the queue, a model, a disk; and what it keeps meanwhile."""

import asyncio
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest

from headrace.batch import BatchStatus
from headrace.errors import ModelUnavailable
from headrace.files.journal import Journal, Result
from headrace.ids import derived_seed, line_job_id
from headrace.ports import Accepted, Submission
from headrace.queues.rules import QueueLimits
from headrace.request import Lane
from headrace.state import State
from headrace.testing.builders import make_request, make_submission
from headrace.testing.cut import Cut
from headrace.testing.eventually import eventually
from headrace.testing.queue.memory import MemoryQueue
from headrace.testing.store import Store
from headrace.wire.prompter import Prompter
from scheduler.batches.hold import LEASE_MS, Hold
from tests.integration.clerk.site import GOOD, LINES, TENANT, WINDOW_MS, Site, check_complete, line, open_site, turns


@pytest.mark.parametrize("limits", [QueueLimits(max_live_jobs=2), QueueLimits(max_tenant_jobs=2), QueueLimits(max_tenant_cost=60)])
async def test_a_full_queue_only_makes_a_batch_wait(
    valkey: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limits: QueueLimits
) -> None:
    monkeypatch.setattr("scheduler.batches.run.LOOK_S", 0.0)
    async with open_site(valkey.url, tmp_path, limits=limits) as site:
        check_complete(site, await site.finish(await site.create(GOOD)))


async def test_a_full_queue_is_not_asked_for_more_than_a_handful_at_a_time(
    valkey: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scheduler.batches.run.LOOK_S", 0.0)
    asked: list[int] = []

    class Counting(MemoryQueue):
        async def states(self, job_ids: Sequence[str]) -> list[State | None]:
            asked.append(0)
            return await super().states(job_ids)

        async def accept(self, submission: Submission) -> Accepted:
            asked[-1] += 1
            return await super().accept(submission)

    async with open_site(valkey.url, tmp_path, queue=Counting, limits=QueueLimits(max_live_jobs=3)) as site:
        batch = await site.finish(await site.create(b"".join(line(number) for number in range(90))))
        check_complete(site, batch, 90)
    assert max(asked) <= 2 * 16, "what is refused once is not tried again in the same look, nor is anything behind it"


async def test_a_full_queue_of_others_is_asked_again_when_it_said_so(
    valkey: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of the batch runs, so nothing tells of room but the clock."""
    monkeypatch.setattr("scheduler.batches.run.LOOK_S", 0.0)
    async with open_site(valkey.url, tmp_path, limits=QueueLimits(max_live_jobs=1)) as site:
        site.pace.hold()
        await site.queue.accept(make_submission(make_request(model="m", max_tokens=2)))
        batch_id = await site.create(GOOD)
        looks = 0

        def until() -> bool:
            nonlocal looks
            looks += 1
            return looks == 50

        refused = 0

        async def accept(submission: Submission) -> Accepted:
            nonlocal refused
            refused += 1
            return await MemoryQueue.accept(site.queue, submission)

        monkeypatch.setattr(site.queue, "accept", accept)
        await site.work(batch_id, Cut(), until)
        assert refused == LINES, "each once, in fifty looks"
        site.pace.release()
        check_complete(site, await site.finish(batch_id))


async def test_a_model_that_does_not_come_back_ends_it_with_its_window(site: Site) -> None:
    def away(_model: str) -> Prompter:
        raise ModelUnavailable("it is not there")

    site.prompters = away
    batch_id = await site.create(GOOD)
    await site.work(batch_id, Cut())
    assert (await site.batch(batch_id)).status is BatchStatus.VALIDATING
    await site.registries.advance(WINDOW_MS)
    batch = await site.finish(batch_id)
    assert (batch.status, [fault.code for fault in batch.faults]) == (BatchStatus.FAILED, ["batch_expired"])


async def test_a_result_that_another_writers_bytes_have_spoilt_is_written_again(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    append = Journal.append
    spoilt: list[Result] = []

    def spoiling(journal: Journal, results: Sequence[Result]) -> None:
        if results and not spoilt:
            spoilt.append(results[0])
            with site.journal(batch_id).open("ab") as file:
                file.write(b"half a rec")
            append(journal, [])
            with site.journal(batch_id).open("ab") as file:
                file.write(b"ord of mine\n")
            append(journal, results[1:])
        else:
            append(journal, results)

    batch_id = await site.create(GOOD)
    monkeypatch.setattr(Journal, "append", spoiling)
    check_complete(site, await site.finish(batch_id))
    assert spoilt


async def test_a_line_larger_than_the_queue_fails_alone(valkey: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scheduler.batches.run.LOOK_S", 0.0)
    async with open_site(valkey.url, tmp_path, limits=QueueLimits(max_live_cost=100)) as site:
        batch = await site.finish(await site.create(line(0) + line(1, max_tokens=150) + line(2)))
        assert [one["custom_id"] for one in site.content(batch.output_file_id)] == ["line-0", "line-2"]
        [error] = site.content(batch.error_file_id)
        assert error["response"]["body"]["error"]["code"] == "request_too_large"


async def test_a_line_becomes_a_job_of_its_batch(site: Site) -> None:
    """In the batch lane, with the batch's deadline, and the same seed whoever hands it over."""
    site.pace.hold()
    seen = []
    for _ in range(2):
        batch_id = await site.create(line(0))
        await site.registries.advance(60_000)
        await turns(site, batch_id, 1)
        batch = await site.batch(batch_id)
        job = await site.queue.get(TENANT, line_job_id(batch_id, 0, batch.created_ms, 1))
        assert job.request.lane is Lane.BATCH
        assert job.deadline_ms == batch.expires_ms
        assert job.request.created == batch.created_ms // 1_000
        seed = job.request.sampling.seed
        await site.queue.cancel(TENANT, job.request.id)
        await site.queue.forget([job.request.id])
        seen.append((batch_id, seed))
    assert seen[0][1] != seen[1][1]
    runner_seeds = {derived_seed(line_job_id(batch_id, 0, (await site.batch(batch_id)).created_ms, 1)) for batch_id, _ in seen}
    assert runner_seeds == {seed for _, seed in seen}


async def test_a_long_stretch_keeps_the_lease(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokenizing takes longer than the lease; the holder goes on renewing, and nobody else gets the batch meanwhile."""
    monkeypatch.setattr("scheduler.batches.hold.RENEW_S", 0.01)
    batch_id = await site.create(GOOD)
    await site.work(batch_id, Cut(), until=lambda: True)
    lease = await site.registries.batches.acquire(batch_id, "me", LEASE_MS)
    assert lease is not None
    hold = Hold(site.registries.batches, lease, clock=lambda: site.registries.now_ms / 1_000)
    done = asyncio.Event()
    keeping = asyncio.create_task(hold.keep(done.wait()))
    for _ in range(3):
        renewed = await site.registries.raw.hget(f"headrace:{{batches}}:record:{batch_id}", "until")
        await site.registries.advance(LEASE_MS - 1)
        await eventually(partial(renewed_since, site, batch_id, renewed))
        assert await site.registries.batches.acquire(batch_id, "another", LEASE_MS) is None
    done.set()
    await keeping


async def renewed_since(site: Site, batch_id: str, before: str) -> bool:
    return bool(await site.registries.raw.hget(f"headrace:{{batches}}:record:{batch_id}", "until") != before)


async def test_a_disk_fault_only_makes_a_batch_wait(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_journal: Journal, _results: object) -> None:
        raise OSError(28, "No space left on device")

    batch_id = await site.create(GOOD)
    with monkeypatch.context() as disk:
        disk.setattr(Journal, "append", full)
        await site.work(batch_id, Cut())
        assert await site.registries.batches.dispatch(10, 1_000) == []  # not at once
    check_complete(site, await site.finish(batch_id))
