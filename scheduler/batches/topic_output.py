"""Answering a batch to a topic: when its files are written, each of their lines becomes a record, in the order of the input.

    key        the custom_id
    value      the line of the output or the error file
    headers    headrace-batch: the batch · headrace-line: which of its requests, from 1 · headrace-lines: how many it has
               headrace-file: output or errors

At least once: whoever is killed between a page and its checkpoint leaves the page to be written again, with the same bytes.
"""

import asyncio
import logging
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial

import orjson

from headrace.batch import Batch, LineFault
from headrace.batch_ports import BatchUpdate
from headrace.errors import LogUnavailable, RequestTooLarge
from headrace.files.journal import Journal
from headrace.ids import line_job_id
from headrace.kafka.result import Outgoing
from scheduler.batches.batch_line import parse_line
from scheduler.batches.hold import Hold
from scheduler.batches.lines import Input
from scheduler.batches.made_file import Role
from scheduler.batches.resources import Resources
from scheduler.batches.results import undone_line
from scheduler.kafka.log_ports import Sink

PAGE = 64
"""Records on their way at once, between two checkpoints."""

PATIENCE_MS = 86_400_000
"""A topic that takes nothing for this long, since nothing of the batch ran any more, goes without: a batch must end one day."""

logger = logging.getLogger(__name__)


class Teller:
    """Tells the results of a batch that runs no more. `undone`: the code of lines that have none."""

    def __init__(self, resources: Resources, hold: Hold, lines: Input, journal: Journal, undone: str) -> None:
        self._resources = resources
        self._hold = hold
        self._lines = lines
        self._journal = journal
        self._undone = undone

    async def tell(self, topic: str) -> tuple[LineFault, ...]:
        """Go on where it was left off. Returns what to say of a topic that was given up.

        Raises LogUnavailable, Stopped, BatchLeaseLost, QueueUnavailable, OSError.
        """
        # Not within: it is given up for what this topic does, and not for what another has told of the brokers.
        self._resources.rest.check(self._resources.clock())
        try:
            await self._tell(topic)
        except LogUnavailable as error:
            if self._resources.now_ms() < _ran_until(self._hold.batch) + PATIENCE_MS:
                raise
            told = self._hold.batch.progress.told or 0
            why = f"The topic {topic} has the results of {told} of {len(self._lines)} lines: {error}. The files have them all."
            logger.error("batch %s ends without its topic: %s", self._hold.batch.new.id, why)
            return (LineFault(code="output_topic_unavailable", message=why, param="output_topic"),)
        return ()

    async def _tell(self, topic: str) -> None:
        hold, topics, stop = self._hold, self._resources.topics, self._resources.stop
        if topics is None:
            raise LogUnavailable("this clerk has no Kafka: HEADRACE_QUEUE_URL is not set")
        async with AsyncExitStack() as stack:
            sink = await hold.keep_until(stop, stack.enter_async_context(topics.writing(topic)))
            for start in range(hold.batch.progress.told or 0, len(self._lines), PAGE):
                page = range(start, min(start + PAGE, len(self._lines)))
                records = await hold.keep(asyncio.to_thread(partial(self._records, page)))
                await hold.keep_until(stop, _write(sink, topic, records))
                await hold.update(BatchUpdate(progress=replace(hold.batch.progress, told=page.stop)))

    def _records(self, page: Sequence[int]) -> list[Outgoing]:
        return [self._record(line) for line in page]

    def _record(self, line: int) -> Outgoing:
        custom_id, new = parse_line(self._lines[line]).custom_id, self._hold.batch.new
        found = self._journal.result(line)
        if found is None:
            job_id = line_job_id(new.id, line, self._hold.batch.created_ms, self._resources.queue.shards)
            found = False, undone_line(custom_id, job_id, self._undone)
        return result_record(new.id, custom_id, line, len(self._lines), answered=found[0], data=found[1])


def result_record(batch_id: str, custom_id: str, line: int, lines: int, *, answered: bool, data: bytes) -> Outgoing:
    """`line` from 0; `data`: its line of a file, without a newline."""
    role: Role = "output" if answered else "errors"
    about = {"batch": batch_id, "line": str(line + 1), "lines": str(lines), "file": role}
    return Outgoing(custom_id.encode(), data, tuple((f"headrace-{name}", value.encode()) for name, value in about.items()))


def without_answer(record: Outgoing) -> Outgoing:
    """The same without what is too large for the topic: the error says so, and the file that the headers name has it."""
    line = orjson.loads(record.value)
    message = f"The result has {len(record.value)} bytes, more than the topic takes: the batch's file has it."
    return replace(record, value=orjson.dumps({**line, "response": None, "error": {"code": "result_too_large", "message": message}}))


async def _write(sink: Sink, topic: str, records: Sequence[Outgoing]) -> None:
    written = await asyncio.gather(*(_write_one(sink, topic, record) for record in records), return_exceptions=True)
    for failed in filter(None, written):
        raise failed


async def _write_one(sink: Sink, topic: str, record: Outgoing) -> None:
    for one in (record, without_answer(record)):
        try:
            return await sink.append(topic, one.key, one.value, one.headers)
        except RequestTooLarge:
            continue
    raise LogUnavailable(f"{topic} takes no record of {len(without_answer(record).value)} bytes")


def _ran_until(batch: Batch) -> int:
    return batch.finalizing_ms or batch.cancelling_ms or batch.created_ms
