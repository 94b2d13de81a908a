"""The janitor: sweeps what no owner will. Every sweep is atomic per job, so of several janitors at once each only finds less."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable

from headrace.errors import QueueUnavailable
from headrace.ports import Housekeeping

logger = logging.getLogger(__name__)

SWEEP_LIMIT = 200
"""Jobs one call may move: it bounds how long the store serves nobody else."""


def trusts_absence(now: float, reachable_since: float | None, grace: float) -> bool:
    """May a missing viewer, or a worker whose lease ran out, be taken for gone?

    Both are kept alive through the store, so while it was away nobody could say that he is still there. Absence counts only after the
    store has been reachable for a whole grace period (seconds).
    """
    return reachable_since is not None and now - reachable_since >= grace


class Janitor:
    """Runs every sweep each `interval` seconds of `clock` (monotonic seconds)."""

    def __init__(
        self,
        queue: Housekeeping,
        *,
        interval: float,
        lease: float,
        viewer_grace: float,
        clock: Callable[[], float],
        swept: Callable[[str, int], None],
    ) -> None:
        self._queue = queue
        self._interval = interval
        self._lease = lease
        self._viewer_grace = viewer_grace
        self._clock = clock
        self._swept = swept
        self._reachable_since: float | None = None

    async def run(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            await self.tick()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), self._interval)

    async def tick(self) -> None:
        """Every sweep once, each until it has nothing left to do. An unreachable store ends the tick."""
        started = self._clock()
        try:
            for name, sweep in self._sweeps():
                moved = SWEEP_LIMIT
                while moved >= SWEEP_LIMIT:
                    moved = await sweep(SWEEP_LIMIT)
                    self._swept(name, moved)
            await self._queue.end_round()
        except QueueUnavailable as error:
            if self._reachable_since is not None:
                logger.warning("state store unreachable: %s", error)
            self._reachable_since = None
            return
        now = self._clock()
        if self._reachable_since is None:
            logger.info("state store reachable")
            self._reachable_since = now
        elif now - started > self._lease / 2:
            # The store stood still for a while, for the others as well.
            self._reachable_since = now

    def _sweeps(self) -> list[tuple[str, Callable[[int], Awaitable[int]]]]:
        now = self._clock()
        sweeps: list[tuple[str, Callable[[int], Awaitable[int]]]] = [
            ("promoted", self._queue.promote),
            ("expired", self._queue.expire),
            ("purged", self._queue.purge),
            ("lapsed", self._queue.forget_lapsed),
        ]
        if trusts_absence(now, self._reachable_since, self._lease):
            sweeps.append(("reaped", self._queue.reap_expired))
        if trusts_absence(now, self._reachable_since, self._viewer_grace):
            sweeps.append(("unattended", self._queue.cancel_unattended))
        return [*sweeps, ("dead", self._tell_deaths)]

    async def _tell_deaths(self, limit: int) -> int:
        """Here for all: whoever made them dead, a supervisor or a janitor, may have been killed in the same moment."""
        deaths = await self._queue.deaths(limit)
        for death in deaths:
            logger.warning("job %s of tenant %s is given up: without a token it took %d workers down and lost %d leases", *death)
        return len(deaths)
