"""Writing a batch's files, when nothing of it runs any more: answers and errors, each in the order of the input.

The files are made from the journal alone, and their ids and bytes follow from the batch, so whoever is cut off here leaves nothing behind
that matters, and whoever does it again does the same.
"""

import asyncio
from collections.abc import Iterable, Iterator
from dataclasses import replace

from headrace.batch import Batch, BatchStatus
from headrace.batch_ports import BatchUpdate
from headrace.files.journal import Journal
from headrace.ids import line_job_id, made_file_id
from scheduler.batches.batch_line import parse_line
from scheduler.batches.hold import Hold
from scheduler.batches.lines import Input
from scheduler.batches.made_file import Role, whole_file
from scheduler.batches.progress import counted
from scheduler.batches.resources import Resources
from scheduler.batches.results import undone_line
from scheduler.batches.topic_output import Teller

CLOCK_SKEW_MS = 60_000
"""That a window has closed is found by the clocks of clerks, and when, is stamped by the store's."""


def outcome(batch: Batch, *, whole: bool) -> tuple[BatchStatus, str]:
    """How the batch ends, and the code of lines that have no result. `whole`: every line has one."""
    if batch.status is BatchStatus.CANCELLING:
        return BatchStatus.CANCELLED, "batch_cancelled"
    if whole or (batch.finalizing_ms or 0) < batch.expires_ms - CLOCK_SKEW_MS:
        return BatchStatus.COMPLETED, "result_lost"
    return BatchStatus.EXPIRED, "batch_expired"


async def assemble(resources: Resources, hold: Hold, lines: Input, journal: Journal) -> None:
    """Write both files, tell the output topic, and end the batch. Raises LogUnavailable, Stopped, BatchLeaseLost, QueueUnavailable,
    OSError."""
    await hold.keep(asyncio.to_thread(journal.refresh))
    topic = hold.batch.new.output_topic
    status, undone = outcome(hold.batch, whole=len(journal) == len(lines))
    update = BatchUpdate() if hold.batch.progress.told is not None else await _files(resources, hold, lines, journal, undone)
    if topic is not None:
        # Whatever becomes of the topic, the files are there, and are not written again.
        await hold.update(replace(update, progress=replace(hold.batch.progress, told=hold.batch.progress.told or 0)))
        faults = await Teller(resources, hold, lines, journal, undone).tell(topic)
        update = BatchUpdate(faults=faults or None)
    progress = replace(counted(hold.batch.progress, journal.tally), failed=len(lines) - journal.tally.completed)
    await hold.update(replace(update, progress=progress, status=status))


async def _files(resources: Resources, hold: Hold, lines: Input, journal: Journal, undone: str) -> BatchUpdate:
    errors = _errors(hold.batch, lines, journal, undone, resources.queue.shards)
    output_id = await _make(resources, hold, "output", journal.answers())
    error_id = await _make(resources, hold, "errors", errors)
    return BatchUpdate(output_file_id=output_id, error_file_id=error_id)


async def _make(resources: Resources, hold: Hold, role: Role, content: Iterable[bytes]) -> str | None:
    """Store a file and its record; its id, or None if there is nothing to store."""
    file_id = made_file_id(hold.batch.new.id, role)
    size = await hold.keep(asyncio.to_thread(_publish, resources, file_id, content))
    if not size:
        return None
    await resources.files.put(whole_file(hold.batch, role, size=size, made_ms=resources.now_ms(), ttl_s=resources.file_ttl_s))
    return file_id


def _publish(resources: Resources, file_id: str, content: Iterable[bytes]) -> int:
    """The file's size in bytes; an empty one is not stored."""
    scratch = resources.blobs.scratch()
    with scratch.open("xb") as file:
        file.writelines(content)
        size = file.tell()
    if size:
        resources.blobs.publish(scratch, file_id)
    else:
        scratch.unlink()
    return size


def _errors(batch: Batch, lines: Input, journal: Journal, undone: str, shards: int) -> Iterator[bytes]:
    for line in range(len(lines)):
        if line not in journal:
            job_id = line_job_id(batch.new.id, line, batch.created_ms, shards)
            yield undone_line(parse_line(lines[line]).custom_id, job_id, undone) + b"\n"
        elif (error := journal.error(line)) is not None:
            yield error
