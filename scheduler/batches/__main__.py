"""The clerk's process: `python -m scheduler.batches`. It checks batch files, feeds their lines to the queue and writes their results."""

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial

from headrace.errors import QueueUnavailable
from headrace.files.folder import FolderBlobs
from headrace.files.journals import Journals
from headrace.lifecycle import refusing, start
from headrace.queues.connect import connect as connect_queue
from headrace.registries.connect import connect as connect_registries
from headrace.settings import Settings
from headrace.wire.served import served_prompters
from scheduler.batches.clerk import Clerk
from scheduler.batches.desk import Desk
from scheduler.batches.resources import Resources
from scheduler.batches.rest import Rest
from scheduler.batches.sweep import sweep
from scheduler.batches.tasks import OFFICE
from scheduler.batches.validate import InputLimits

SHORTEST_TURN_S, LONGEST_TURN_S = 1.0, 30.0
"""How long a clerk stays with a batch: at least the first while others wait, at most the second."""

RETRY_S = 1.0
"""Before tasks are asked for again, when their queue went away."""

logger = logging.getLogger("scheduler.batches")


class BatchOffice:
    """Composes what a task needs, anew for each: a task is the unit that may fail, and takes its connections with it."""

    def __init__(self, settings: Settings, desk: Desk) -> None:
        self._settings = settings
        self._desk = desk
        self._blobs = FolderBlobs(settings.files_dir)
        self._journals = Journals()
        self._rest = Rest()
        self._stopped = threading.Event()
        self._interrupt: Callable[[], object] | None = None
        """Tells the task that runs now."""
        self._prompters = served_prompters(settings)

    @property
    def stopped(self) -> bool:
        return self._stopped.is_set()

    def stop(self) -> None:
        """From the signal handler."""
        self._stopped.set()
        if self._interrupt is not None:
            self._interrupt()

    def pause(self, seconds: float) -> None:
        """Returns early when told to stop."""
        self._stopped.wait(seconds)

    async def work_on(self, batch_id: str) -> None:
        started = time.monotonic()

        def until() -> bool:
            stayed = time.monotonic() - started
            return self.stopped or stayed > LONGEST_TURN_S or (stayed > SHORTEST_TURN_S and self._others_wait())

        async with self._resources() as resources:
            with self._telling(resources.stop):
                await Clerk(resources).work_on(batch_id, until)

    @contextmanager
    def _telling(self, stop: asyncio.Event) -> Iterator[None]:
        # A signal handler alone would not wake a loop that waits.
        self._interrupt = partial(asyncio.get_running_loop().call_soon_threadsafe, stop.set)
        if self.stopped:
            stop.set()
        try:
            yield
        finally:
            self._interrupt = None

    def _others_wait(self) -> bool:
        try:
            return bool(self._desk.waiting())
        except QueueUnavailable:
            return False  # nobody can be told to take a turn; the batch at hand needs the state store alone

    async def sweep(self) -> None:
        try:
            async with self._resources() as resources:
                await sweep(resources, self._settings.batch_retention_s * 1_000)
        except (QueueUnavailable, OSError) as error:
            logger.warning("what nobody needs any more stays until the next sweep: %s", error)

    @asynccontextmanager
    async def _resources(self) -> AsyncIterator[Resources]:
        settings = self._settings
        async with connect_queue(settings) as queue, connect_registries(settings) as registries:
            yield Resources(
                queue=queue,
                files=registries.files,
                batches=registries.batches,
                blobs=self._blobs,
                prompters=self._prompters,
                journals=self._journals,
                root=settings.files_dir,
                limits=InputLimits(bytes=settings.max_batch_bytes, lines=settings.max_batch_lines, line_bytes=settings.max_line_bytes),
                file_ttl_s=settings.file_ttl_s,
                clock=time.monotonic,
                now_ms=lambda: time.time_ns() // 1_000_000,
                topics=registries.topics,
                rest=self._rest,
            )


def serve(desk: Desk, office: BatchOffice) -> None:
    """Take tasks until told to stop, through every outage of their queue."""
    told = False

    def ready() -> None:
        nonlocal told
        logger.info("takes tasks")
        told = False

    while not office.stopped:
        try:
            desk.serve(on_ready=ready, on_stop=office.stop)
        except QueueUnavailable as error:
            if not told:
                logger.warning("no tasks for now: %s", error)
            told = True
        office.pause(RETRY_S)


def main() -> None:
    settings = start("clerk", module="scheduler.batches", does="Checks batch files, runs and writes them.")
    with refusing("clerk"):
        desk = Desk(settings.rq_url or settings.redis_url)
        office = BatchOffice(settings, desk)
        OFFICE.set(office)
        serve(desk, office)
        desk.close()


if __name__ == "__main__":
    main()
