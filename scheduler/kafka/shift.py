"""What the pump's process does, one after the other: fill a store that is new, then read the log as a member of its group, until the store
is found to be new again, or it is told to stop."""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from headrace.errors import LogUnavailable, QueueUnavailable
from scheduler.kafka.log_ports import Source
from scheduler.kafka.recovery import Rebuilder, Recovered

LOOK_S = 1.0
"""Between two looks whether the store is still the one that was filled."""
RETRY_S = 1.0

logger = logging.getLogger(__name__)


class Reading(Protocol):
    async def run(self, source: Source) -> None:
        """Until it is cancelled."""
        ...


class Shift:
    """`join` makes this process a member of the group, for as long as it is entered."""

    def __init__(
        self,
        rebuilder: Rebuilder,
        reading: Reading,
        join: Callable[[], AbstractAsyncContextManager[Source]],
        recovered: Callable[[Recovered], None],
    ) -> None:
        self._rebuilder = rebuilder
        self._reading = reading
        self._join = join
        self._recovered = recovered
        self._told = ""

    async def run(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            try:
                if await self._rebuilder.needed():
                    await self._rebuild(stop)
                else:
                    await self._read(stop)
                self._told = ""
            except (QueueUnavailable, LogUnavailable) as error:
                # A lasting outage is told once, whatever else changes in its words.
                if self._told != type(error).__name__:
                    logger.warning("the log is not read for now: %s", error)
                self._told = type(error).__name__
                await _pause(stop, RETRY_S)

    async def _rebuild(self, stop: asyncio.Event) -> None:
        work = asyncio.ensure_future(self._rebuilder.run())
        stopping = asyncio.ensure_future(stop.wait())
        try:
            await asyncio.wait([work, stopping], return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                return
            if (found := work.result()) is not None:
                self._recovered(found)
            else:
                await _pause(stop, LOOK_S)
        finally:
            for task in (work, stopping):
                task.cancel()
            await asyncio.gather(work, stopping, return_exceptions=True)

    async def _read(self, stop: asyncio.Event) -> None:
        """Returns when told to stop, or when the store was lost. Raises what reading raises."""
        async with self._join() as source:
            work = asyncio.ensure_future(self._reading.run(source))
            try:
                while not stop.is_set() and not work.done():
                    with contextlib.suppress(QueueUnavailable):  # reading waits through it, and says so
                        if await self._rebuilder.needed():
                            logger.warning("the state store has lost what it held: it is filled again from the log")
                            break
                    await _pause(stop, LOOK_S)
                if work.done():
                    work.result()
            finally:
                work.cancel()
                await asyncio.gather(work, return_exceptions=True)


async def _pause(stop: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), seconds)
