"""The work on a batch, cut off before and behind every single call that leaves the process: the next clerk makes the same files."""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest

from headrace.batch import BatchStatus
from headrace.embedded import EmbeddedValkey
from headrace.errors import BatchNotFound, FileNotKnown
from headrace.files.journal import Journal
from headrace.files.workspace import Workspace, workspaces
from headrace.ids import line_job_id, new_batch_id, new_file_id
from headrace.queues.rules import QueueLimits
from headrace.request import Lane
from headrace.testing.cut import Cut, Killed, Pause
from headrace.testing.eventually import eventually
from headrace.testing.scripted_worker import PANGRAM
from scheduler.batches.hold import LEASE_MS, Hold
from scheduler.batches.lines import Index
from scheduler.batches.run import line_seed
from scheduler.batches.sweep import ORPHAN_S, sweep
from tests.integration.clerk_site import GOOD, LINES, TENANT, WINDOW_MS, Site, check_complete, line, open_site


@pytest.fixture
async def site(valkey: EmbeddedValkey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Site]:
    monkeypatch.setattr("scheduler.batches.run.LOOK_S", 0.0)
    async with open_site(valkey.url, tmp_path) as opened:
        yield opened


async def test_a_batch_runs_to_its_end(site: Site) -> None:
    check_complete(site, await site.finish(await site.create(GOOD)))


@pytest.mark.parametrize("behind", [False, True], ids=["before", "behind"])
async def test_killed_at_every_call_the_files_are_the_same(site: Site, monkeypatch: pytest.MonkeyPatch, behind: bool) -> None:
    """The first clerk dies at call k, whichever k; whoever comes when the lease has run out brings the batch to the same end."""
    written, saved = Journal.append, Index.save
    k = 0
    while True:
        k += 1
        cut = Cut(k, behind=behind)
        with monkeypatch.context() as disk:
            disk.setattr(Journal, "append", cut.watch_function(written))
            disk.setattr(Index, "save", cut.watch_function(saved))
            batch_id = await site.create(GOOD)
            try:
                await site.work(batch_id, cut)
            except Killed:
                died = True
            else:
                died = False
        await site.registries.advance(LEASE_MS + 1)
        await site.sweep()  # takes nothing that the next clerk needs
        check_complete(site, await site.finish(batch_id))
        if not died:
            break
    assert k > 20, "the enumeration has hardly begun: are the calls still watched?"


async def turns(site: Site, batch_id: str, count: int) -> None:
    """A clerk looks at the batch so often, and leaves it."""
    left = iter(range(count - 1))
    await site.work(batch_id, Cut(), until=lambda: next(left, None) is None)


async def test_two_clerks_at_once_do_the_work_of_one(site: Site) -> None:
    """One is stopped for longer than its lease, in front of every call in turn, and goes on when another one has done all the work."""
    for k in range(1, 200):
        paused, go_on = asyncio.Event(), asyncio.Event()
        batch_id = await site.create(GOOD)
        zombie = asyncio.create_task(site.work(batch_id, Pause(k, paused, go_on)))
        waiting = asyncio.create_task(paused.wait())
        await asyncio.wait([zombie, waiting], return_when=asyncio.FIRST_COMPLETED)
        await site.registries.advance(LEASE_MS + 1)
        batch = await site.finish(batch_id)
        go_on.set()
        await zombie
        waiting.cancel()
        assert await site.batch(batch_id) == batch
        check_complete(site, batch)
        record = await site.registries.files.get(TENANT, batch.output_file_id or "")
        assert record.batch_id is None
        if not paused.is_set():
            return
    raise AssertionError("the enumeration has not come to its end")


async def test_an_output_file_is_there_from_the_first_answer_on(site: Site) -> None:
    site.pace.hold()
    batch_id = await site.create(GOOD)
    await turns(site, batch_id, 2)
    assert (await site.batch(batch_id)).output_file_id is None
    site.pace.release()

    async def first_answer() -> str | None:
        await turns(site, batch_id, 1)
        return (await site.batch(batch_id)).output_file_id

    file_id = await eventually(first_answer)
    record = await site.registries.files.get(TENANT, file_id)
    if record.batch_id is not None:  # it may be done by now
        assert record.batch_id == batch_id
        assert record.size > 0
    batch = await site.finish(batch_id)
    assert batch.output_file_id == file_id
    check_complete(site, batch)


async def test_a_line_that_fails_is_in_the_error_file_and_the_others_answer(site: Site) -> None:
    batch = await site.finish(await site.create(line(0) + line(1, max_tokens=13) + line(2)))
    assert batch.status is BatchStatus.COMPLETED
    assert [one["custom_id"] for one in site.content(batch.output_file_id)] == ["line-0", "line-2"]
    [error] = site.content(batch.error_file_id)
    assert error["custom_id"] == "line-1"
    assert error["response"]["status_code"] == 500
    assert (batch.progress.completed, batch.progress.failed) == (2, 1)


async def test_where_no_line_answers_there_is_no_output_file(site: Site) -> None:
    batch = await site.finish(await site.create(line(0, max_tokens=13)))
    assert batch.output_file_id is None
    assert len(site.content(batch.error_file_id)) == 1


async def test_a_refused_file_runs_nothing(site: Site) -> None:
    batch = await site.finish(await site.create(line(0) + b"{\n" + line(0)))
    assert batch.status is BatchStatus.FAILED
    assert [(fault.code, fault.line) for fault in batch.faults] == [("invalid_json_line", 2), ("duplicate_custom_id", 3)]
    assert batch.output_file_id is batch.error_file_id is None
    assert not site.queue.outbox
    assert list(workspaces(site.root)) == []


async def test_an_input_deleted_too_early_is_named_and_one_deleted_later_is_no_matter(site: Site) -> None:
    batch_id = await site.create(GOOD)
    site.blobs.delete((await site.batch(batch_id)).new.input_file_id)
    assert [fault.code for fault in (await site.finish(batch_id)).faults] == ["input_file_missing"]
    site.pace.hold()
    batch_id = await site.create(GOOD)
    await turns(site, batch_id, 1)
    site.blobs.delete((await site.batch(batch_id)).new.input_file_id)
    site.pace.release()
    check_complete(site, await site.finish(batch_id))


@pytest.mark.parametrize("turns_before", [0, 1, 3])
async def test_a_cancelled_batch_keeps_what_is_done_and_accounts_for_every_line(site: Site, turns_before: int) -> None:
    site.pace.hold()
    batch_id = await site.create(GOOD)
    if turns_before:
        await turns(site, batch_id, turns_before)
    site.pace.allow(2 * (len(PANGRAM) + 2))  # steps for two of the five lines, if they take turns so
    await site.registries.batches.cancel(TENANT, batch_id)
    batch = await site.finish(batch_id)
    assert batch.status is BatchStatus.CANCELLED
    if not turns_before:
        assert (batch.progress.total, batch.output_file_id, batch.error_file_id) == (0, None, None)
        return
    answers, errors = site.content(batch.output_file_id), site.content(batch.error_file_id)
    assert sorted(one["custom_id"] for one in answers + errors) == [f"line-{number}" for number in range(LINES)]
    assert all(one["error"]["code"] == "batch_cancelled" and one["response"] is None for one in errors)
    assert (batch.progress.completed, batch.progress.failed) == (len(answers), len(errors))
    assert (await site.queue.load()).running == 0
    assert list(workspaces(site.root)) == []


async def test_an_expired_batch_keeps_what_is_done_and_accounts_for_every_line(site: Site) -> None:
    batch_id = await site.create(GOOD)
    site.pace.hold()
    await turns(site, batch_id, 1)
    await site.registries.advance(WINDOW_MS)
    batch = await site.finish(batch_id)
    assert batch.status is BatchStatus.EXPIRED
    errors = site.content(batch.error_file_id)
    assert [one["error"]["code"] for one in errors] == ["batch_expired"] * LINES
    assert (batch.progress.completed, batch.progress.failed) == (0, LINES)


async def test_a_result_that_was_purged_unread_fails_its_line_alone(site: Site) -> None:
    site.pace.hold()
    batch_id = await site.create(GOOD)
    await turns(site, batch_id, 1)
    site.pace.release()
    job_id = line_job_id(batch_id, 2, (await site.batch(batch_id)).created_ms, 1)

    async def purged() -> bool:
        await site.queue.forget([job_id])
        return await site.queue.states([job_id]) == [None]

    await eventually(purged)
    batch = await site.finish(batch_id)
    assert [one["custom_id"] for one in site.content(batch.error_file_id)] == ["line-2"]
    assert site.content(batch.error_file_id)[0]["response"]["body"]["error"]["code"] == "result_lost"
    assert batch.progress.completed == LINES - 1


@pytest.mark.parametrize("limits", [QueueLimits(max_live_jobs=2), QueueLimits(max_tenant_jobs=2), QueueLimits(max_tenant_cost=60)])
async def test_a_full_queue_only_makes_a_batch_wait(
    valkey: EmbeddedValkey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limits: QueueLimits
) -> None:
    monkeypatch.setattr("scheduler.batches.run.LOOK_S", 0.0)
    async with open_site(valkey.url, tmp_path, limits=limits) as site:
        check_complete(site, await site.finish(await site.create(GOOD)))


async def test_a_line_larger_than_the_queue_fails_alone(valkey: EmbeddedValkey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    runner_seeds = {line_seed(line_job_id(batch_id, 0, (await site.batch(batch_id)).created_ms, 1)) for batch_id, _ in seen}
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


async def test_a_sweep_takes_what_nobody_knows_once_it_is_old(site: Site) -> None:
    young, old = site.blobs.scratch(), site.blobs.scratch()
    ids = {}
    for scratch, age in ((young, 0), (old, 2 * ORPHAN_S)):
        scratch.write_bytes(b"bytes")
        ids[scratch] = new_file_id()
        then = time.time() - age
        os.utime(scratch, (then, then))
        site.blobs.publish(scratch, ids[scratch])
    Workspace(site.root, new_batch_id()).create()
    await site.sweep()
    assert [blob for blob, _ in site.blobs.stored()] == [ids[young]]
    assert list(workspaces(site.root)) == []


async def test_batches_are_forgotten_after_their_retention(site: Site) -> None:
    batch_id = await site.create(b"")
    await site.finish(batch_id)
    await sweep(site.resources(Cut()), retention_ms=3_600_000)
    assert (await site.batch(batch_id)).status is BatchStatus.FAILED
    await site.registries.advance(3_600_001)
    await sweep(site.resources(Cut()), retention_ms=3_600_000)
    with pytest.raises(BatchNotFound):
        await site.batch(batch_id)


async def test_made_files_live_as_long_as_was_asked(site: Site) -> None:
    for ttl_s, kept_s in ((7_200, 7_200), (None, 1_000)):
        batch = await site.finish(await site.create(GOOD, output_ttl_s=ttl_s))
        record = await site.registries.files.get(TENANT, batch.output_file_id or "")
        assert record.expires_ms == record.created_ms + 1_000 * kept_s


async def test_expired_files_go_and_files_in_use_stay(site: Site) -> None:
    batch = await site.finish(await site.create(GOOD, output_ttl_s=3_600))
    assert batch.output_file_id is not None
    await site.sweep()
    assert site.content(batch.output_file_id)
    await site.registries.advance(3_601_000)
    await site.sweep()
    with pytest.raises(FileNotKnown):
        await site.registries.files.get(TENANT, batch.output_file_id)
    with pytest.raises(FileNotKnown):
        site.blobs.open(batch.output_file_id)
