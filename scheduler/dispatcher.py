"""The dispatcher: has clerks look at the batches that are due, and at what has expired, now and then.

It trusts nothing but the batches' own state: a task that a clerk lost, with its process or its queue, is put again when its time is over.
And it puts only a few ahead of the clerks: the order in which batches get their turns is that of the time they are due, which the state
keeps, and not that of a second list that grows while every clerk is busy.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from headrace.batch_ports import BatchWork
from headrace.errors import QueueUnavailable
from scheduler.front import PATIENCE_S, Front

logger = logging.getLogger(__name__)

AHEAD = 4
"""Tasks that may wait for a clerk: enough that none is idle until the next look, few enough that whoever comes last soon has his turn."""
AGAIN_MS = 5_000
"""A batch that no clerk has taken this long after it was put is put again."""
SWEEP_S = 60.0


class Clerks(Protocol):
    """Where tasks are put for them. Calls block, and raise QueueUnavailable."""

    def waiting(self) -> Sequence[str]:
        """Ids of the tasks that no clerk has taken; the first is taken next."""
        ...

    def work_on(self, batch_id: str) -> None: ...

    def sweep(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Look:
    """What the dispatcher saw of the clerks' tasks."""

    waiting: int
    """Tasks that no clerk has taken."""
    waited_s: float
    """For how long the next one has been the next one."""


class Dispatcher:
    """Looks every `interval` seconds of `clock` (monotonic seconds), and tells `looked`: None where it could not see."""

    def __init__(
        self,
        batches: BatchWork,
        clerks: Clerks,
        *,
        interval: float,
        clock: Callable[[], float],
        looked: Callable[[Look | None], None],
    ) -> None:
        self._batches = batches
        self._clerks = clerks
        self._interval = interval
        self._clock = clock
        self._looked = looked
        self._front = Front(None, clock())
        self._swept_at = float("-inf")
        self._reachable = True

    async def run(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            await self.tick()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), self._interval)

    async def tick(self) -> None:
        try:
            waiting = await asyncio.to_thread(self._clerks.waiting)
            await self._watch(waiting)
            await self._fill(AHEAD - len(waiting))
        except QueueUnavailable as error:
            self._front = self._front.unseen(self._clock())
            self._looked(None)
            if self._reachable:
                logger.warning("no batch can be given to a clerk: %s", error)
            self._reachable = False
            return
        if not self._reachable:
            logger.info("batches can be given to clerks again")
        self._reachable = True

    async def _watch(self, waiting: Sequence[str]) -> None:
        """A clerk that is absent or stands still says nothing itself."""
        now = self._clock()
        front = self._front.seen(waiting[0] if waiting else None, now)
        self._looked(Look(len(waiting), front.waited_s(now)))
        if front.stands and not self._front.stands:
            logger.warning("no clerk has taken a task for %.0f s: %d batches stand still", PATIENCE_S, await self._batches.live())
        if self._front.stands and not front.stands:
            logger.info("clerks take tasks again")
        self._front = front

    async def _fill(self, room: int) -> None:
        """Put so many tasks; a sweep that is due comes first, or busy clerks would never make one."""
        if room > 0 and self._clock() - self._swept_at >= SWEEP_S:
            await asyncio.to_thread(self._clerks.sweep)
            self._swept_at = self._clock()
            room -= 1
        if room > 0:
            for batch_id in await self._batches.dispatch(room, AGAIN_MS):
                await asyncio.to_thread(self._clerks.work_on, batch_id)
