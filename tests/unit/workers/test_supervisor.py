"""What the supervisor says of its engine's end. The engine is a process that only waits, and does not know how to drain."""

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Sequence

import psutil
import pytest

from headrace.testing.eventually import eventually
from headrace.testing.queue.memory import MemoryQueue
from workers.pulse import Patience
from workers.supervisor import Supervisor

WAITS = [sys.executable, "-c", "import time; time.sleep(600)"]


def waits(_worker: str, _pulse_fd: int) -> Sequence[str]:
    return WAITS


async def engine() -> psutil.Process | None:
    return next((child for child in psutil.Process().children() if child.cmdline() == WAITS), None)


@pytest.mark.parametrize("ordered", [True, False])
async def test_only_a_death_that_was_not_ordered_is_one(ordered: bool, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    stop = asyncio.Event()
    patience = Patience(start=600.0, step=600.0)
    tidings: list[tuple[bool, str]] = []
    supervisor = Supervisor(
        "w", MemoryQueue(), standbys=0, patience=patience, command=waits, tell=lambda well, line: tidings.append((well, line))
    )
    running = asyncio.ensure_future(supervisor.run(stop))
    first = await eventually(engine, pause=0.01)
    assert first is not None
    if not ordered:
        os.kill(first.pid, signal.SIGTERM)

        async def told() -> bool:
            return any("died: SIGTERM" in record.getMessage() for record in caplog.records)

        await eventually(told, pause=0.01)
    stop.set()
    await running
    warned = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warned) == (not ordered)
    assert tidings == ([] if ordered else [(False, "the engine ended unexpectedly (SIGTERM) and is started again")])
    assert any("was told to stop" in record.getMessage() for record in caplog.records) or not ordered
