"""What is cleared away, and what is not."""

import os
import time

import pytest

from headrace.batch import BatchStatus
from headrace.errors import BatchNotFound, FileNotKnown
from headrace.files.workspace import Workspace, workspaces
from headrace.ids import new_batch_id, new_file_id
from headrace.testing.cut import Cut
from scheduler.batches.made_file import growing_file
from scheduler.batches.sweep import ORPHAN_S, sweep
from tests.integration.clerk.site import GOOD, TENANT, WINDOW_MS, Site


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


async def test_a_growing_file_that_nobody_finishes_goes_in_the_end(site: Site) -> None:
    """A clerk that has lost its batch puts the record once more, after the batch has ended and its owner has deleted the file."""
    batch = await site.finish(await site.create(GOOD))
    file_id = batch.output_file_id or ""
    await site.registries.files.remove(TENANT, file_id)
    await site.registries.files.put(growing_file(batch, "output", size=1, ttl_s=1_000))
    await site.sweep()
    assert (await site.registries.files.get(TENANT, file_id)).batch_id == batch.new.id
    await site.registries.advance(WINDOW_MS + 1_000_000)
    await site.sweep()
    with pytest.raises(FileNotKnown):
        await site.registries.files.get(TENANT, file_id)
