"""One run: a fleet under load and under fire, until every order is over and the store has come to rest; then the verdict."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

from headrace.wire.prompter import FolderPrompter
from tests.chaos.batch_load import BatchLoad
from tests.chaos.batch_orders import make_batches
from tests.chaos.checker import violations
from tests.chaos.fleet import GRACE_S, sailing
from tests.chaos.history import History
from tests.chaos.load import Load
from tests.chaos.model import NAME
from tests.chaos.orders import LINGERING, make_orders
from tests.chaos.plan import Target, make_plan
from tests.chaos.replicas import replicas_at
from tests.chaos.snapshot import comes_to_rest, take_snapshot
from tests.chaos.striker import Striker, Struck
from tests.chaos.versions import older_version, this_version
from tests.chaos.wrong import Violation

IN_BATCHES = 0.12
"""Share of the requests that are lines of batches."""
REST_S = 120.0
PROGRESS_S = 10.0

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    seed: int
    requests: int
    """Orders of single clients and lines of batches."""
    at_once: int
    """Clients at a time."""
    older: str | None
    """Commit of the older version; None: the last one with other functions or records."""
    patience_s: float
    """How long an order may stand still before its client gives up: quarantine takes its time over poison."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    settings: Settings
    history: History
    violations: list[Violation]
    struck: list[Struck]
    pauses: list[tuple[float, float]]
    drains: dict[Target, list[float]]
    took_s: float


async def run(settings: Settings, folder: Path, say: Say) -> Result:
    """`folder` is empty, and keeps the store's file and everybody's log. Raises NoHistory."""
    this, older = this_version(folder / "this"), older_version(folder / "older", settings.older)
    say(f"older code: {older.name}")
    began = time.monotonic()
    async with sailing(folder, this) as (fleet, valkey):
        say(f"ready after {time.monotonic() - began:.1f} s")
        encode = FolderPrompter.load(str(folder / NAME), folder).chat
        lines = int(settings.requests * IN_BATCHES)
        orders = make_orders(settings.seed, settings.requests - lines, encode)
        busy, lingering = orders[:-LINGERING], orders[-LINGERING:]
        batches = make_batches(settings.seed, lines, len(busy), encode)
        plan = make_plan(settings.seed, len(busy))
        async with replicas_at(fleet.urls, NAME) as replicas:
            load = Load(replicas, at_once=settings.at_once, patience_s=settings.patience_s)
            batch_load = BatchLoad(replicas, load, settings.patience_s)
            striker = Striker(fleet, load, this, older)
            async with _telling(len(orders), load, striker, len(plan), say), asyncio.TaskGroup() as group:
                group.create_task(load.run(busy))
                group.create_task(batch_load.run(batches))
                group.create_task(striker.run(plan))
            # Behind everything else: a clock that runs ahead by the grace would take the jobs of whoever still reads.
            await load.run(lingering)
            await fleet.jump(GRACE_S)
            took_s = time.monotonic() - began
            batch_ids = await batch_load.list()
        if not await comes_to_rest(valkey.url, REST_S):
            say(f"some jobs have not ended {REST_S:.0f} s after the last client left")
        await fleet.stop()  # before the look at the store: what nobody owns any more must be nobody's there either
        history = History(load.records, await take_snapshot(valkey.url), batch_load.records, batch_ids)
    return Result(
        settings=settings,
        history=history,
        violations=violations(history),
        struck=striker.struck,
        pauses=replicas.pauses,
        drains=fleet.drains,
        took_s=took_s,
    )


@contextlib.asynccontextmanager
async def _telling(orders: int, load: Load, striker: Striker, faults: int, say: Say) -> AsyncIterator[None]:
    async def tell() -> None:
        last = 0
        while True:
            await asyncio.sleep(PROGRESS_S)
            ended = len(load.records)
            say(f"{ended:,} of {orders:,} orders, {(ended - last) / PROGRESS_S:.0f} a second; {len(striker.struck)} of {faults} faults")
            last = ended

    task = asyncio.ensure_future(tell())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
