"""Following one job's log on behalf of one caller: as frames of an event stream, or until its end."""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import suppress

from headrace.cursor import START, Cursor, LogPosition
from headrace.errors import CursorInvalid, QueueUnavailable, RequestError, StreamRestarted
from headrace.job import Job, LogEntry
from headrace.ports import JobQueue
from headrace.request import Request
from headrace.state import TERMINAL
from headrace.wire.spelling import Spelling
from producer_api.chunks import entry_events, opening, resume_point
from producer_api.log_reader import Interrupted
from producer_api.metrics import Metrics
from producer_api.services import Services
from producer_api.sse import PING, frame

_DISCONNECT_POLL_S = 1.0


class ClientGone(Exception):
    """Nobody waits for the answer any more."""


class Delivery:
    """Counts what reaches a caller. `since`: when its request came in, for the first token's time; None where that says nothing."""

    def __init__(self, metrics: Metrics, since: float | None) -> None:
        self._metrics = metrics
        self._since = since

    def count(self, entries: list[LogEntry]) -> None:
        self._metrics.tokens.inc(sum(len(entry.token_ids) for entry in entries))
        if self._since is not None and any(entry.text for entry in entries):
            self._metrics.first_token_seconds.observe(time.perf_counter() - self._since)
            self._since = None


async def stream_frames(
    services: Services,
    request: Request,
    spelling: Spelling | None,
    *,
    seen: Cursor | None = None,
    committed: int = 0,
    since: float | None = None,
) -> AsyncGenerator[bytes, None]:
    """Frames of the events behind `seen` (None: all), up to the job's end. `committed`: tokens in the log, of a job that may have ended.
    `spelling`: a fresh one.

    Raises Interrupted if the stream cannot go on: on shutdown, or when the job is not known any more.
    """
    delivery = Delivery(services.metrics, since)
    ping_s, clock = services.settings.ping_s, asyncio.get_running_loop().time
    after = START if seen is None else resume_point(seen, spelling)
    last = START if seen is None else seen.entry
    with services.metrics.open_streams.track_inprogress(), services.reader.subscribe(request.id, after, attended=request.attended) as log:
        if events := [event for event in opening(request, spelling) if seen is None or event.cursor > seen]:
            yield frame(events)
        ping_at = clock() + ping_s
        while True:
            entries = await log.take(ping_at - clock())
            if entries and is_restart(last, entries[0].position):
                raise Interrupted  # and whoever comes back with the cursor is told
            last = entries[-1].position if entries else last
            delivery.count(entries)
            events = []
            for entry in entries:
                committed = entry.position.n if entry.end is None else committed
                events += [event for event in entry_events(request, entry, committed, spelling) if seen is None or event.cursor > seen]
            if events:
                yield frame(events)
            if entries and entries[-1].end is not None:
                return
            if not events:
                if clock() < ping_at:
                    continue
                try:
                    await _check_known(services.queue, request)
                except RequestError as error:
                    raise Interrupted from error  # whoever comes back with the cursor is told
                yield PING
            ping_at = clock() + ping_s


async def read_to_end(
    services: Services, request: Request, is_gone: Callable[[], Awaitable[bool]], *, since: float | None = None
) -> list[LogEntry]:
    """The whole log of a job, once it has ended. Raises ClientGone, Interrupted, and JobNotFound or JobPurged should the job vanish."""
    delivery = Delivery(services.metrics, since)
    whole: list[LogEntry] = []
    clock, look_s = asyncio.get_running_loop().time, services.settings.ping_s
    look_at = clock() + look_s
    with services.reader.subscribe(request.id, START, attended=request.attended) as log:
        while not whole or whole[-1].end is None:
            entries = await log.take(_DISCONNECT_POLL_S)
            if whole and entries and is_restart(whole[-1].position, entries[0].position):
                whole = []  # nobody has seen it
            delivery.count(entries)
            whole += entries
            if await is_gone():
                raise ClientGone
            if not entries and clock() >= look_at:
                await _check_known(services.queue, request)
                look_at = clock() + look_s
    return whole


def is_restart(last: LogPosition, here: LogPosition) -> bool:
    """Whether what was read up to `last` is no part of the log that `here` is in: the store was lost between them. Before the first token
    there is nothing to mix up."""
    return last.n > 0 and last.generation != here.generation


async def _check_known(queue: JobQueue, request: Request) -> None:
    """Raises JobNotFound or JobPurged. A job that is gone, with its store or at the end of its retention, has an empty log for ever."""
    with suppress(QueueUnavailable):  # an outage says nothing about the job
        await queue.get(request.tenant, request.id)


async def anything_behind(queue: JobQueue, job: Job, seen: Cursor, *, param: str) -> bool:
    """Whether the job has, or may yet have, events behind `seen`. Raises StreamRestarted for a cursor of an earlier generation,
    CursorInvalid for one ahead of all that was ever sent."""
    if seen.epoch < job.epoch and is_restart(seen.entry, LogPosition(job.epoch, job.committed)):
        raise StreamRestarted(
            f"'{param}' {seen} is from an answer that was lost with the queue's store. Job {job.request.id} runs again and writes another "
            "one: read that from its beginning, without an event id.",
            param=param,
        )
    ahead = CursorInvalid(f"'{param}' {seen} is ahead of everything job {job.request.id} has logged.", param=param)
    if job.state not in TERMINAL:
        if seen.epoch > job.epoch or seen.n > job.committed:
            raise ahead
        return True
    rest = await queue.read_log(job.request.tenant, job.request.id, resume_point(seen, None), 1)
    if not rest:
        raise ahead
    last = entry_events(job.request, rest[0], job.committed, None)[-1].cursor if rest[0].end is not None else None
    if last is not None and seen > last:
        raise ahead
    return seen != last
