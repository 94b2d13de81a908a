"""The work on a batch, cut off before and behind every single call that leaves the process: the next clerk makes the same files."""

import pytest

from headrace.files.journal import Journal
from headrace.testing.cut import Cut, Killed
from headrace.testing.eventually import eventually
from scheduler.batches.hold import LEASE_MS
from scheduler.batches.lines import Index
from tests.integration.clerk.site import GOOD, TENANT, Site, check_complete, overtake, turns


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


async def test_two_clerks_at_once_do_the_work_of_one(site: Site) -> None:
    """One is stopped for longer than its lease, in front of every call in turn, and goes on when another one has done all the work."""
    for k in range(1, 200):
        batch, was_stopped = await overtake(site, await site.create(GOOD), k)
        check_complete(site, batch)
        record = await site.registries.files.get(TENANT, batch.output_file_id or "")
        assert record.batch_id is None
        if not was_stopped:
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
