"""A worker host: a supervisor with its engine processes."""

import asyncio
import secrets
import time
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psutil

from benchmarks.recovery.site import WITHIN_S, Site
from headrace.testing.eventually import eventually


class Host:
    def __init__(self, site: Site, standbys: int) -> None:
        self._site = site
        self._standbys = standbys
        self._log = site.folder / f"host-{secrets.token_hex(3)}.log"
        self._starts = 0
        self._process: Process | None = None

    @classmethod
    @asynccontextmanager
    async def running(cls, site: Site, *, standbys: int = 0) -> AsyncIterator["Host"]:
        host = cls(site, standbys)
        await host.start()
        try:
            yield host
        finally:
            await host.drain()

    async def start(self) -> None:
        """Returns once its engine processes are ready."""
        # Nothing is asked about steps here, and a machine that is shared may well stand still for seconds.
        self._process = await self._site.start("workers", self._log, HEADRACE_STANDBY=str(self._standbys), HEADRACE_STEP_TIMEOUT_S="60")
        self._starts += 1 + self._standbys
        await self.ready()

    async def ready(self) -> None:
        """Every process that there should be has loaded the model and is warmed up."""

        async def warm() -> bool:
            return self._log.read_text().count("is warmed up on") >= self._starts

        await eventually(warm, WITHIN_S, pause=0.05)

    def has(self, pid: int) -> bool:
        return pid in (engine.pid for engine in self._engines())

    def kill_engine(self, pid: int) -> None:
        psutil.Process(pid).kill()
        self._starts += 1

    async def lose(self) -> None:
        """kill -9 of all at once. The supervisor first: it must not hand back what its engine held, nor start another one."""
        engines = self._engines()
        self._living.kill()
        for engine in engines:
            engine.kill()
        await self._living.wait()

    async def drain(self) -> float:
        """Seconds from SIGTERM to its end."""
        began = time.monotonic()
        if self._living.returncode is None:
            self._living.terminate()
        code = await asyncio.wait_for(self._living.wait(), WITHIN_S)
        seconds = time.monotonic() - began
        if code > 0:
            raise RuntimeError(f"a worker ended with {code}:\n{self._log.read_text()[-2_000:]}")
        return seconds

    @property
    def _living(self) -> Process:
        if self._process is None:
            raise RuntimeError("the host was never started")
        return self._process

    def _engines(self) -> list[psutil.Process]:
        return psutil.Process(self._living.pid).children()
