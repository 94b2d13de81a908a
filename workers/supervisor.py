"""The worker's supervisor: keeps one engine process alive and hands back at once what a dead one held.

waitpid tells of a death within milliseconds; a lease would take seconds. The lease remains for the death of the whole machine.
"""

import asyncio
import logging
import secrets
import sys
from collections.abc import Sequence

from headrace.errors import QueueUnavailable
from headrace.ports import WorkQueue
from headrace.supervise import Supervised

logger = logging.getLogger(__name__)

DRAIN_S = 10.0
REAP_RETRY_S = 0.5


class Supervisor:
    """One engine process. Every start of it has an id of its own, so that reaping a dead one can never touch its successor's jobs."""

    def __init__(self, host: str, queue: WorkQueue) -> None:
        self._queue = queue
        self._boot = f"{host}-{secrets.token_hex(3)}"
        self._engine = Supervised("the engine process", self._argv, on_death=self._reap)

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`, then drain. Raises ChildMisconfigured."""
        running = asyncio.ensure_future(self._engine.run())
        stopping = asyncio.ensure_future(stop.wait())
        await asyncio.wait({running, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        await self._engine.stop(DRAIN_S)
        await running

    def _worker(self, start: int) -> str:
        return f"{self._boot}-{start}"

    def _argv(self, start: int) -> Sequence[str]:
        return [sys.executable, "-m", "workers", "--supervised", "engine", "--name", self._worker(start)]

    async def _reap(self, start: int) -> None:
        worker = self._worker(start)
        while True:
            try:
                jobs = await self._queue.reap_worker(worker)
            except QueueUnavailable as error:
                logger.warning("cannot reap %s yet: %s", worker, error)
                await asyncio.sleep(REAP_RETRY_S)
                continue
            logger.warning("%s died; %d jobs went back to the queue", worker, len(jobs))
            return
