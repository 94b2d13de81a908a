"""One reader of token logs for all streams of the process.

    doorbell ─► due ─► read_logs (one call for all that are due and have room) ─► each subscription's batch ─► its stream

A subscription is a position in one job's log plus at most one batch of entries. While a slow client's batch is not taken, its log is not
read: it costs a cursor and nothing else, and no token is dropped. The doorbell is a hint: every open log is also read once per `poll_s`.
"""

import asyncio
import logging
from collections.abc import Iterable
from contextlib import suppress
from itertools import islice
from types import TracebackType

from headrace.cursor import LogPosition
from headrace.errors import QueueUnavailable
from headrace.job import LogEntry
from headrace.ports import Doorbell, JobQueue

logger = logging.getLogger(__name__)

LOGS_PER_READ = 64
"""Logs read in one call: when a restarted process reads hundreds of long ones, the event loop comes round between the calls."""

BATCH = 256
"""Entries read of one log at once, hence held for one stream."""

_FIRST_BACKOFF_S = 0.1
_LONGEST_BACKOFF_S = 2.0


class Interrupted(Exception):
    """The process stops: an unfinished answer must be cut, never brought to a clean end."""


class Subscription:
    """One reader's place in one job's log. Used by one task, within `with`."""

    def __init__(self, reader: "LogReader", job_id: str, after: LogPosition, *, attended: bool) -> None:
        self.job_id = job_id
        self.attended = attended
        self.tail = after
        """Position of the last entry read."""
        self.ended = False
        """The end marker was read."""
        self._reader = reader
        self._batch: list[LogEntry] = []
        self._changed = asyncio.Event()

    @property
    def has_room(self) -> bool:
        return not self._batch

    async def take(self, timeout: float) -> list[LogEntry]:
        """Entries since the last call, oldest first: at once if there are any, else when some come; none after `timeout` seconds.

        Raises Interrupted once the reader has stopped and nothing is left.
        """
        if not self._batch and not self._reader.stopped:
            self._changed.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    await self._changed.wait()
        if self._batch:
            batch, self._batch = self._batch, []
            self._reader.room_made(self)
            return batch
        if self._reader.stopped:
            raise Interrupted
        return []

    def deliver(self, entries: list[LogEntry]) -> None:
        if entries:
            self._batch = entries
            self.tail = entries[-1].position
            self.ended = entries[-1].end is not None
            self._changed.set()

    def wake(self) -> None:
        self._changed.set()

    def __enter__(self) -> "Subscription":
        self._reader.open(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._reader.close(self)


class LogReader:
    """Runs as one task (`run`); everything else is called from the same event loop."""

    def __init__(self, queue: JobQueue, *, viewer_grace_s: float, poll_s: float = 1.0) -> None:
        self.stopped = False
        self._queue = queue
        self._attend_s = viewer_grace_s / 3
        self._poll_s = poll_s
        self._open: dict[str, set[Subscription]] = {}
        # In the order in which they became due: what rings again at once must not keep the others waiting.
        self._due: dict[Subscription, None] = {}
        self._work = asyncio.Event()

    def subscribe(self, job_id: str, after: LogPosition, *, attended: bool) -> Subscription:
        """Entries behind `after`; nothing is missed between a look at the job and this call, as the log is read from the position.

        `attended`: keep the job's viewer grace from running out as long as the subscription is open.
        """
        return Subscription(self, job_id, after, attended=attended)

    @property
    def unfinished(self) -> int:
        """Subscriptions that have not read their job's end."""
        return sum(not one.ended for one in self._subscriptions())

    def stop(self) -> None:
        """Interrupt every subscription, now and from now on."""
        self.stopped = True
        for subscription in self._subscriptions():
            subscription.wake()

    async def run(self) -> None:
        """Read until cancelled. An error that is not the queue's absence stops every subscription and is raised."""
        try:
            async with asyncio.TaskGroup() as group:
                for loop in (self._listen(), self._poll(), self._read(), self._attend()):
                    group.create_task(loop)
        finally:
            self.stop()

    # Called by subscriptions

    def open(self, subscription: Subscription) -> None:
        self._open.setdefault(subscription.job_id, set()).add(subscription)
        self._want([subscription])

    def close(self, subscription: Subscription) -> None:
        same_job = self._open[subscription.job_id]
        same_job.remove(subscription)
        if not same_job:
            del self._open[subscription.job_id]
        self._due.pop(subscription, None)

    def room_made(self, subscription: Subscription) -> None:
        if subscription in self._due:
            self._work.set()

    # The loops. They look whether they should stop, as redis-py loses a cancellation that meets a connection just broken.

    async def _listen(self) -> None:
        backoff = _FIRST_BACKOFF_S
        while not self.stopped:
            try:
                async with self._queue.log_doorbell() as bell:
                    if backoff != _FIRST_BACKOFF_S:
                        logger.info("the doorbell is there")
                    backoff = _FIRST_BACKOFF_S
                    await self._hear(bell)
            except QueueUnavailable as error:
                level = logging.WARNING if backoff == _FIRST_BACKOFF_S else logging.DEBUG
                logger.log(level, "no doorbell, polling instead why=%s", error)
            await asyncio.sleep(backoff)
            backoff = min(backoff * 2, _LONGEST_BACKOFF_S)

    async def _hear(self, bell: Doorbell) -> None:
        while not self.stopped:
            rung = await bell.wait(self._poll_s)
            # Most rings are for streams of other API processes.
            self._want(one for job_id in rung & self._open.keys() for one in self._open[job_id])

    async def _poll(self) -> None:
        while not self.stopped:
            await asyncio.sleep(self._poll_s)
            self._want(self._subscriptions())

    async def _read(self) -> None:
        backoff = 0.0
        while not self.stopped:
            self._work.clear()
            if not any(one.has_room for one in self._due):
                await self._work.wait()
                continue
            try:
                await self._read_due()
                if backoff != 0.0:
                    logger.info("token logs are read again")
                backoff = 0.0
            except QueueUnavailable as error:
                if backoff == 0.0:
                    logger.warning("token logs cannot be read, trying again why=%s", error)
                backoff = min(max(backoff * 2, _FIRST_BACKOFF_S), _LONGEST_BACKOFF_S)
                await asyncio.sleep(backoff)

    async def _read_due(self) -> None:
        ready = list(islice((one for one in self._due if one.has_room), LOGS_PER_READ))
        # Before the read: what rings during it may not be in its answer and counts for the next one.
        for one in ready:
            del self._due[one]
        try:
            logs = await self._queue.read_logs([(one.job_id, one.tail) for one in ready], BATCH)
        except QueueUnavailable:
            self._want(ready)
            raise
        for one, entries in zip(ready, logs, strict=True):
            one.deliver(entries)
        self._want(one for one, entries in zip(ready, logs, strict=True) if len(entries) == BATCH)

    async def _attend(self) -> None:
        while not self.stopped:
            await asyncio.sleep(self._attend_s)
            jobs = list({one.job_id for one in self._subscriptions() if one.attended and not one.ended})
            while jobs and not self.stopped:
                try:
                    await self._queue.attend(jobs)
                    break
                except QueueUnavailable:
                    # The reading loop reports the outage. Viewers are still here, and must be seen soon after its end.
                    await asyncio.sleep(min(self._attend_s, _LONGEST_BACKOFF_S) / 4)

    def _want(self, subscriptions: Iterable[Subscription]) -> None:
        """Read these as soon as they have room. Closed and ended ones are left out."""
        self._due.update(dict.fromkeys(one for one in subscriptions if not one.ended and one in self._open.get(one.job_id, ())))
        if self._due:
            self._work.set()

    def _subscriptions(self) -> list[Subscription]:
        return [one for same_job in self._open.values() for one in same_job]
