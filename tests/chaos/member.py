"""One process of the fleet, started again whenever it ends, as an orchestrator would."""

import asyncio
import contextlib
import os
import signal
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from headrace.testing.eventually import eventually
from tests.chaos.plan import Target
from tests.chaos.versions import Version

RESPAWN_S = 0.1
STOP_S = 20.0
"""Longer than any of them gives itself."""


class Member:
    def __init__(
        self,
        name: str,
        role: Target,
        command: Sequence[str],
        environ: Mapping[str, str],
        log: Path,
        version: Version,
        when_old: Mapping[str, str],
    ) -> None:
        """`command`: what follows the interpreter on the command line. `when_old`: variables that it has with older code alone."""
        self.name = name
        self.role = role
        self.version = version
        self._command = command
        self._environ = environ
        self._when_old = when_old
        self._log = log
        self._process: Process | None = None
        self._stopping = False

    async def run(self) -> None:
        """Until `stop`."""
        while not self._stopping:
            self._process = await self._spawn()
            code = await self._process.wait()
            self._note(f"{self.name} ended with {code}")
            await asyncio.sleep(RESPAWN_S)

    @property
    def lives(self) -> bool:
        return self._process is not None and self._process.returncode is None

    def signal(self, number: signal.Signals) -> bool:
        """Whether there was anybody to get it."""
        if self._process is None or self._process.returncode is not None:
            return False
        self._process.send_signal(number)
        return True

    def engines(self) -> list[psutil.Process]:
        """Of a worker: the engine processes of its supervisor, the oldest first."""
        if self._process is None or self._process.returncode is not None:
            return []
        with contextlib.suppress(psutil.NoSuchProcess):
            found = psutil.Process(self._process.pid).children()
            return sorted((child for child in found if child.status() != psutil.STATUS_ZOMBIE), key=psutil.Process.create_time)
        return []

    async def restart(self, version: Version) -> float:
        """SIGTERM, and the next start is of this version. Returns the seconds it took to leave."""
        self.version = version
        await eventually(self._there, STOP_S, pause=0.05)  # one that is just being started is still of the other version
        began = time.monotonic()
        await self._terminate()
        return time.monotonic() - began

    async def stop(self) -> None:
        self._stopping = True
        engines = self.engines()
        self.signal(signal.SIGCONT)
        await self._terminate()
        for engine in engines:
            send(engine, signal.SIGKILL)

    async def _there(self) -> bool:
        return self.lives

    async def _terminate(self) -> None:
        process = self._process
        if process is None or process.returncode is not None:
            return
        self.signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(process.wait(), STOP_S)
        except TimeoutError:
            self._note(f"{self.name} was told to stop and is still there after {STOP_S:.0f} s")
            self.signal(signal.SIGKILL)
            await process.wait()

    async def _spawn(self) -> Process:
        environ = {**self._environ, **(self._when_old if self.version.old else {}), "PYTHONPATH": str(self.version.tree)}
        self._note(f"{self.name} starts with {self.version.name}")
        with self._log.open("ab") as log:
            # The pipe ends with this process, and they with it, however it dies.
            return await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", *self._command),
                env=environ,
                stdin=PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _note(self, what: str) -> None:
        with self._log.open("a") as log:
            log.write(f"== {time.time():.3f} {what}\n")


def send(process: psutil.Process, number: signal.Signals) -> bool:
    """Whether there was anybody to get it. psutil knows a process by its time of birth too: nobody is hit who has inherited its number."""
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return False
    return True


def clean_environ() -> dict[str, str]:
    """Ours, without settings that are not the fleet's."""
    return {name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_")}
