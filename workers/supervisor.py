"""The worker's supervisor: keeps an engine process at work and hands back at once what a dead one held.

    active    takes work
    standby   has loaded the model and is warmed up, holds no KV cache and takes no work; when the active one dies it is told to begin, and
              what is started in the dead one's place is the new standby

waitpid tells of a death within milliseconds, and a pulse of a process that hangs within seconds (`workers/pulse.py`); a lease remains for
the death of the whole machine.
"""

import asyncio
import logging
import secrets
import sys
from collections.abc import Sequence

from headrace.errors import QueueUnavailable
from headrace.ports import WorkQueue
from headrace.state import TERMINAL
from headrace.tidings import Tell, tell_nobody
from workers.engine_process import Command, EngineProcess
from workers.pulse import Patience

logger = logging.getLogger(__name__)

DRAIN_S = 10.0
REAP_RETRY_S = 0.5


def engine_command(worker: str, pulse_fd: int) -> Sequence[str]:
    return [sys.executable, "-m", "workers", "--supervised", "engine", "--name", worker, "--pulse", str(pulse_fd)]


class Supervisor:
    """`standbys` processes beside the one at work. `tell` gets a line for each death that was not ordered, and one when all is well."""

    def __init__(
        self,
        host: str,
        queue: WorkQueue,
        *,
        standbys: int,
        patience: Patience,
        command: Command = engine_command,
        tell: Tell = tell_nobody,
    ) -> None:
        self._queue = queue
        self._tell_parent = tell
        boot = f"{host}-{secrets.token_hex(3)}"
        self._processes = [
            EngineProcess(f"{boot}-{i}", command, patience, on_start=self._started, on_warm=self._warm, on_death=self._died)
            for i in range(1 + standbys)
        ]
        self._active = self._processes[0]

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`, then drain. Raises ChildMisconfigured."""
        runs = [asyncio.ensure_future(process.run()) for process in self._processes]
        stopping = asyncio.ensure_future(stop.wait())
        await asyncio.wait({*runs, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        await asyncio.gather(*(process.stop(DRAIN_S) for process in self._processes))
        await asyncio.gather(*runs)

    def _started(self, process: EngineProcess) -> None:
        if process is self._active:
            process.begin()

    def _warm(self, process: EngineProcess) -> None:
        self._tell_parent(True, "the engine takes work" if process is self._active else "a standby engine is ready")

    async def _died(self, process: EngineProcess, worker: str, how: str) -> None:
        if process.stopping:
            logger.info("%s was told to stop and ended without a drain: %s", worker, how)
        else:
            logger.warning("%s died: %s", worker, how)
        was_active = process is self._active
        if was_active:
            # Without another one that lives its own next start goes on; one that is still loading is nearer than that.
            self._active = next((other for other in self._processes if other is not process and other.lives), process)
            if self._active is not process:
                self._active.begin()
        if not process.stopping:
            who = "the engine" if was_active else "the standby engine"
            replaced = was_active and process is not self._active
            then = ": the standby goes on, and another one is started" if replaced else " and is started again"
            self._tell_parent(False, f"{who} ended unexpectedly ({how}){then}")
        await self._reap(worker)

    async def _reap(self, worker: str) -> None:
        level = logging.WARNING
        while True:
            try:
                jobs = await self._queue.reap_worker(worker)
            except QueueUnavailable as error:
                logger.log(level, "the jobs of %s cannot go back to the queue yet: %s", worker, error)
                level = logging.DEBUG  # said once an outage: it may last
                await asyncio.sleep(REAP_RETRY_S)
                continue
            await self._tell(worker, jobs)
            return

    async def _tell(self, worker: str, jobs: Sequence[str]) -> None:
        try:
            states = await self._queue.states(jobs)
        except QueueUnavailable as error:
            logger.info("%d jobs of %s were taken from it; what became of them is unknown: %s", len(jobs), worker, error)
            return
        ended = [(job_id, state) for job_id, state in zip(jobs, states, strict=True) if state is None or state in TERMINAL]
        logger.info("%d jobs of %s went back to the queue", len(jobs) - len(ended), worker)
        for job_id, state in ended:
            # A death is the janitor's to warn of, in one place for all hosts.
            logger.info("job %s of %s has ended: %s", job_id, worker, state or "purged")
