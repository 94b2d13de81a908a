"""The pump: records of the log become jobs. A record is done when the state store has its job, or when somebody was told why not.

    accepted    what the API has promised          admit; it mostly was admitted already, by the API itself
    requests    what native clients ask for        check, then admit; refuse; or put among the dead letters

Every step may be repeated: the job follows from the record. Where the store is full or away, or the model not there yet, the record waits
and so do those behind it, as the log stops delivering; nothing is dropped.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import TypeVar

from headrace.errors import (
    IdempotencyConflict,
    LogUnavailable,
    ModelUnavailable,
    QueueFull,
    QueueUnavailable,
    RequestError,
    RequestTooLarge,
    SchemaUnknown,
)
from headrace.ids import is_in_shards
from headrace.kafka.log_record import LogRecord
from headrace.kafka.native import DeadLetter, Native, TenantOf, read_native, submission_of
from headrace.kafka.record import decode_accepted
from headrace.kafka.result import Outgoing, dead_letter, refused_record, unkept_record
from headrace.kafka.topics import Topics
from headrace.outbox_ports import Outbox
from headrace.ports import Accepted, Intake, Submission
from headrace.tally import Tally
from headrace.wire.prompter import Prompters
from scheduler.kafka.log_ports import Sink, Source

AT_ONCE = 16
"""Records worked on at a time. Those that a full queue refused keep their place, so it is asked again by no more than these."""
RETRY_S = 0.5
LONGEST_WAIT_S = 5.0
"""Before a full queue is tried again, however long it says it will stay so."""
OFF_LOOP_BYTES = 16_384
TRIES = 3
"""To make sense of a native record, of failures that nobody has foreseen."""

T = TypeVar("T")
Counted = Callable[[str], None]
logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Rules:
    """How records are read."""

    topics: Topics
    shards: int
    longest_ms: int
    """How long a job may live."""
    tenant_of: TenantOf | None
    """None: no key is asked for."""


class Pump:
    """`counted` is told what became of each record."""

    def __init__(
        self,
        sink: Sink,
        *,
        intake: Intake,
        outbox: Outbox,
        prompters: Prompters,
        rules: Rules,
        now_ms: Callable[[], int],
        counted: Counted,
    ) -> None:
        self._sink = sink
        self._intake = intake
        self._outbox = outbox
        self._prompters = prompters
        self._rules = rules
        self._now_ms = now_ms
        self._counted = counted
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._told: set[type[Exception]] = set()
        """What stands in the way now, and has been said."""
        self._buried = Tally(time.monotonic)
        self._traced: set[type[Exception]] = set()
        """Failures that nobody has foreseen, and whose traceback was told."""

    async def run(self, source: Source) -> None:
        """Until it is cancelled. What is under way then is delivered again."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                for record in await source.batch():
                    tasks.create_task(self._finish(record, source))

    async def _finish(self, record: LogRecord, source: Source) -> None:
        self._counted(await self.take(record))
        source.done(record)

    async def take(self, record: LogRecord) -> str:
        """Work on a record until it is done. Returns in which way, as `headrace_pump_records_total` calls it."""
        async with self._slots:
            if (flaw := record.flaw) is not None:
                return await self._bury(record, flaw)
            if record.partition.topic == self._rules.topics.accepted:
                return await self._take_accepted(record)
            try:
                return await self._take_native(record)
            except DeadLetter as error:
                return await self._bury(record, str(error))

    async def _take_accepted(self, record: LogRecord) -> str:
        """What nobody has foreseen is raised, and ends the pump, which is started again: this is a promise to somebody who looks for it by
        its id, and as a dead letter it would be queued to him, and in the end unknown."""
        try:
            submission = _aged(decode_accepted(record.value or b""), self._now_ms() - record.timestamp_ms)
        except SchemaUnknown as error:
            return await self._bury(record, str(error))
        job_id = submission.request.id
        if not is_in_shards(job_id, self._rules.shards):
            return await self._bury(record, f"Its job {job_id[:40]!r} names none of the {self._rules.shards} shards of this store.")
        try:
            return _outcome(await self._admit(submission))
        except (IdempotencyConflict, RequestTooLarge) as error:
            await self._write(self._rules.topics.results, unkept_record(submission.request, error))
            return "refused"

    async def _take_native(self, record: LogRecord) -> str:
        """Raises DeadLetter."""
        native = await self._understood(lambda: self._read(record))
        try:
            tells_tokens = native.tells_tokens
            submission = await self._persist(lambda: self._understood(lambda: self._checked(native, len(record.value or b""))))
            if (traceparent := native.traceparent) is not None:
                await self._persist(lambda: self._outbox.trace(native.job_id, traceparent, submission.ttl_ms))
            accepted = await self._admit(submission)
        except RequestError as error:
            await self._write(self._rules.topics.results, refused_record(native, error))
            return "refused"
        if tells_tokens:
            await self._persist(lambda: self._outbox.ask(accepted.job_id))
        return _outcome(accepted)

    async def _understood(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """What follows from a native record alone. Raises DeadLetter where that fails as nobody has foreseen: it would fail for ever, and
        for every pump. What store or log raise does not come this way, nor does a disk or a memory that is full: none is the record's."""
        tries = 0
        while True:
            try:
                return await attempt()
            except (DeadLetter, RequestError, ModelUnavailable, OSError, MemoryError):
                raise
            except Exception as error:
                tries += 1
                if tries == TRIES:
                    self._trace_once(error)
                    raise DeadLetter(f"could not be processed: {type(error).__name__}") from error
            await asyncio.sleep(RETRY_S)

    def _trace_once(self, error: Exception) -> None:
        if type(error) not in self._traced:
            self._traced.add(type(error))
            logger.error("what a record asks for cannot be found out, for a reason that nobody has foreseen", exc_info=error)

    async def _read(self, record: LogRecord) -> Native:
        return read_native(record, self._rules.tenant_of, self._rules.shards)

    async def _checked(self, native: Native, size: int) -> Submission:
        arguments = {"now_ms": self._now_ms(), "longest_ms": self._rules.longest_ms}
        if size < OFF_LOOP_BYTES:
            return submission_of(native, self._prompters, **arguments)
        return await asyncio.to_thread(submission_of, native, self._prompters, **arguments)

    async def _bury(self, record: LogRecord, reason: str) -> str:
        # One client can write thousands; each says itself where it was and why.
        if (count := self._buried.count()) is not None:
            logger.warning("records become dead letters count=%d, the last is %s: %s", count, record.place, reason)
        try:
            await self._write(self._rules.topics.dead_letter, dead_letter(record, reason))
        except RequestTooLarge:
            await self._write(self._rules.topics.dead_letter, dead_letter(record, reason, whole=False))
        return "dead_letter"

    async def _write(self, topic: str, out: Outgoing) -> None:
        await self._persist(lambda: self._sink.append(topic, out.key, out.value, out.headers))

    async def _admit(self, submission: Submission) -> Accepted:
        """Until there is room. (No bound of its tenant refuses it: who waits here holds up what is behind it in its partition.)"""
        full: set[type[Exception]] = set()
        while True:
            try:
                accepted = await self._persist(lambda: self._intake.admit(submission))
                self._told -= full
                return accepted
            except QueueFull as error:
                full.add(self._tell_once(error))
                await asyncio.sleep(min(error.retry_after, LONGEST_WAIT_S))

    async def _persist(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """Through every outage of what `attempt` needs."""
        met: set[type[Exception]] = set()
        while True:
            try:
                result = await attempt()
            except (QueueUnavailable, LogUnavailable, ModelUnavailable) as error:
                met.add(self._tell_once(error))
                await asyncio.sleep(RETRY_S)
            else:
                # Of its own obstacles alone: what others wait for may last.
                self._told -= met
                return result

    def _tell_once(self, error: Exception) -> type[Exception]:
        """The kind of obstacle that was told."""
        if type(error) not in self._told:
            logger.warning("records wait: %s", error)
            self._told.add(type(error))
        return type(error)


def _outcome(accepted: Accepted) -> str:
    return "known" if accepted.replayed else "admitted"


def _aged(submission: Submission, age_ms: int) -> Submission:
    """It was promised a time to live from when it was accepted; one that has none left expires at once, and that is told."""
    return replace(submission, ttl_ms=max(1, submission.ttl_ms - max(0, age_ms)))
