"""An engine that stands still in a step: how long until its supervisor kills it, and until its request goes on."""

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import psutil

from benchmarks.recovery.figure import Figure
from benchmarks.recovery.paced_engine import HANGS
from benchmarks.recovery.site import LOOK_S, WITHIN_S, Site
from headrace.settings import load_settings
from headrace.testing.eventually import eventually
from workers.pulse import Patience
from workers.supervisor import Supervisor


@asynccontextmanager
async def paced_worker(site: Site, marker: Path) -> AsyncIterator[None]:
    """A supervisor of paced engines, as patient as the settings say."""

    def command(name: str, pulse_fd: int) -> Sequence[str]:
        module = "benchmarks.recovery.paced_engine"
        return [sys.executable, "-m", module, name, str(pulse_fd), site.url, site.served, str(marker)]

    settings, stop = load_settings(), asyncio.Event()
    patience = Patience(start=settings.start_timeout_s, step=settings.step_timeout_s)
    running = asyncio.ensure_future(Supervisor("paced", site.queue, standbys=0, patience=patience, command=command).run(stop))
    try:
        yield
    finally:
        stop.set()
        await running


async def hang(site: Site, n: int) -> list[Figure]:
    detected: list[float] = []
    seconds: list[float] = []
    marker = site.folder / "hangs"
    async with paced_worker(site, marker):
        for _ in range(n):
            request = await site.submit((HANGS, 2))
            last = await site.in_swing(request)
            pid = await site.at_work()

            async def stuck() -> bool:
                return marker.exists()

            await eventually(stuck, WITHIN_S, pause=LOOK_S)
            began = float(marker.read_text())

            async def killed(pid: int = pid) -> bool:
                return not psutil.pid_exists(pid)

            await eventually(killed, WITHIN_S, pause=LOOK_S)
            detected.append(time.monotonic() - began)
            await site.taken_over(request, last)
            seconds.append(time.monotonic() - began)
            await site.cancel(request)
            marker.unlink()
    return [
        Figure("an engine hangs in a step of 20 ms, until it is killed", "≤ max(10 s, 20 median steps)", detected),
        Figure("… until its request goes on in a new process, which has no model to load", "", seconds),
    ]
