"""Feeding a batch from a topic: the records of its range become an ordinary input file, a line each, by partition and offset. From there on
it is a batch like any other.

The range is fixed, so copying it again gives the same file, and nobody has to know how far an earlier clerk came.
"""

import asyncio
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO

from headrace.batch import LineFault, TopicRange
from headrace.errors import InvalidRequest, LogUnavailable, RangeGone
from headrace.kafka.log_record import LogRecord
from scheduler.batches.batch_line import parse_line
from scheduler.batches.hold import Hold
from scheduler.batches.made_file import whole_file
from scheduler.batches.resources import Resources
from scheduler.batches.topic_ports import TopicLog
from scheduler.batches.validate import MAX_FAULTS, InputLimits


class InputRefused(Exception):
    """There is no input that could be validated."""

    def __init__(self, fault: LineFault) -> None:
        super().__init__(fault.message)
        self.fault = fault


@dataclass(slots=True)
class Copied:
    """What each line of the file is made of."""

    topic: str
    faults: list[LineFault] = field(default_factory=list)
    """Of records that no line can be made of; a blank one stands for each."""
    places: list[tuple[int, int]] = field(default_factory=list)
    """Partition and offset by line."""

    def located(self, faults: list[LineFault]) -> list[LineFault]:
        """These and its own by line, no more than are told, each with the place of its record."""
        found = sorted([*faults, *self.faults], key=lambda fault: fault.line or 0)[:MAX_FAULTS]
        return [fault if fault.line is None else replace(fault, message=f"{self._place(fault.line)}: {fault.message}") for fault in found]

    def _place(self, line: int) -> str:
        partition, offset = self.places[line - 1]
        return f"{self.topic}/{partition}@{offset}"


def line_of(value: bytes) -> bytes:
    """The line for a record: JSON that was laid out in several is put in one. Empty for a blank record. Raises InvalidRequest."""
    data = value.rstrip(b"\r\n")
    if b"\n" not in data or not data.strip():
        return data.strip() and data
    # Between its values a line break is a blank, and within one it is none of JSON.
    parse_line(data)
    return data.replace(b"\n", b" ")


class Copying:
    """Writes records to `file`."""

    def __init__(self, topic: str, file: BinaryIO, limits: InputLimits) -> None:
        self.copied = Copied(topic)
        self._file = file
        self._limits = limits
        self._size = 0

    def add(self, records: list[LogRecord]) -> None:
        """Raises InputRefused once there are more than a batch may have: the rest would only fill the disk. Raises OSError."""
        for record in records:
            line = self._line(record)
            if line is None:
                continue
            self.copied.places.append((record.partition.number, record.offset))
            self._size += self._file.write(line + b"\n")
            if len(self.copied.places) > self._limits.lines:
                raise _refused("too_many_lines", f"The range has more than {self._limits.lines} requests.")
            if self._size > self._limits.bytes:
                raise _refused("file_too_large", f"The range has more than {self._limits.bytes} bytes; that is what a batch may have.")

    def _line(self, record: LogRecord) -> bytes | None:
        """None of a record without a request: what a blank line is in a file."""
        if record.unreadable is not None:
            return self._fault(InvalidRequest(record.unreadable, code="unreadable_record"))
        try:
            return line_of(record.value or b"") or None
        except InvalidRequest as error:
            return self._fault(error)

    def _fault(self, error: InvalidRequest) -> bytes:
        if len(self.copied.faults) < MAX_FAULTS:
            line = len(self.copied.places) + 1
            self.copied.faults.append(LineFault(code=error.code or "invalid_value", message=error.message, param=error.param, line=line))
        return b""


async def copy_input(resources: Resources, hold: Hold, source: TopicRange) -> Copied:
    """Make the batch's input file. Raises InputRefused, LogUnavailable, Stopped, BatchLeaseLost, QueueUnavailable, OSError."""
    if resources.topics is None:
        raise LogUnavailable("this clerk has no Kafka: HEADRACE_QUEUE_URL is not set")
    resources.rest.check(resources.clock())
    scratch = resources.blobs.scratch()
    try:
        copied = await _copy(resources, resources.topics, hold, source, scratch)
        # Whoever has lost the batch must not put another file in the place of the one that is being validated: a topic may be compacted.
        await hold.renew()
        record = whole_file(hold.batch, "input", size=scratch.stat().st_size, made_ms=resources.now_ms(), ttl_s=resources.file_ttl_s)
        await hold.keep(asyncio.to_thread(resources.blobs.publish, scratch, record.id))
        await resources.files.put(record)
    finally:
        scratch.unlink(missing_ok=True)
    return copied


async def _copy(resources: Resources, topics: TopicLog, hold: Hold, source: TopicRange, scratch: Path) -> Copied:
    with scratch.open("xb") as file:
        copying = Copying(source.topic, file, resources.limits)
        for span in source.spans:
            if span.start == span.end:
                continue
            try:
                async with aclosing(topics.read(source.topic, span)) as batches:
                    while records := await hold.keep_until(resources.stop, anext(batches, None)):
                        copying.add(records)
            except RangeGone as error:
                raise _refused("range_deleted", str(error)) from None
    return copying.copied


def _refused(code: str, message: str) -> InputRefused:
    return InputRefused(LineFault(code=code, message=message, param="input_topic"))
