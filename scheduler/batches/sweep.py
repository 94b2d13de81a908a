"""What nobody needs any more: files past their expiry, bytes without a record, workspaces and records of ended batches.

Every deletion starts with what makes the object visible, so whoever is cut off leaves bytes that nothing refers to, and the next sweep
finds them.
"""

import asyncio
import logging
from collections.abc import Iterator, Sequence
from contextlib import suppress

from headrace.batch import BATCH_ENDED
from headrace.errors import FileNotKnown
from headrace.files.workspace import Workspace, workspaces
from scheduler.batches.resources import Resources

logger = logging.getLogger(__name__)

ORPHAN_S = 86_400.0
"""Bytes younger than this may belong to an upload that is under way, or whose record is about to be written."""

_LIMIT = 500
"""Of one call of the store."""


async def sweep(resources: Resources, retention_ms: int) -> None:
    """One round. Raises QueueUnavailable, OSError."""
    await _expired_files(resources)
    await _orphans(resources)
    await _ended_batches(resources, retention_ms)


async def _expired_files(resources: Resources) -> None:
    for record in await resources.files.overdue(_LIMIT):
        with suppress(FileNotKnown):  # its owner, or another sweep, was faster
            await resources.files.remove(record.tenant, record.id)
        await asyncio.to_thread(resources.blobs.delete, record.id)
        logger.info("file %s expired", record.id)


async def _orphans(resources: Resources) -> None:
    old = await asyncio.to_thread(lambda: [blob for blob, age in resources.blobs.stored() if age > ORPHAN_S])
    for chunk in _chunks(old):
        for blob, known in zip(chunk, await resources.files.known(chunk), strict=True):
            if not known:
                await asyncio.to_thread(resources.blobs.delete, blob)
                logger.info("blob %s had no record and is deleted", blob)
    await asyncio.to_thread(resources.blobs.sweep_scratch, ORPHAN_S)


async def _ended_batches(resources: Resources, retention_ms: int) -> None:
    await resources.batches.purge_ended(_LIMIT, retention_ms)
    found = await asyncio.to_thread(lambda: list(workspaces(resources.root)))
    for chunk in _chunks(found):
        for batch_id, status in zip(chunk, await resources.batches.standing(chunk), strict=True):
            if status is None or status in BATCH_ENDED:
                await asyncio.to_thread(Workspace(resources.root, batch_id).remove)


def _chunks(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    return (ids[start : start + _LIMIT] for start in range(0, len(ids), _LIMIT))
