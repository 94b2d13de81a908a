"""A worker at work, with an engine whose tokens are known."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

from headrace.cursor import START
from headrace.job import Job, LogEntry
from headrace.ports import JobQueue, WorkQueue
from headrace.request import Request
from headrace.state import State
from headrace.testing.eventually import eventually
from workers.backends.scripted import ScriptedEngine
from workers.engine_thread import EngineThread
from workers.ports import Delta, EngineRequest
from workers.timing import Timing
from workers.worker import Worker

T = TypeVar("T")

MODEL = "test-model"


class InlineEngine(EngineThread):
    """Computes on the loop's own thread: when a step ends would depend on the machine."""

    async def _run(self, call: Callable[[], T]) -> T:
        return call()


class GatedEngine(ScriptedEngine):
    """Steps only as often as it is allowed to, so that a test can act between two steps."""

    def __init__(self) -> None:
        super().__init__()
        self.allowed = 0
        self.added: list[EngineRequest] = []

    def add(self, request: EngineRequest) -> None:
        self.added.append(request)
        super().add(request)

    def step(self, timeout: float) -> list[Delta]:
        if self.allowed == 0 or not self._runs:
            return []
        self.allowed -= 1
        return super().step(timeout)


def new_worker(queue: WorkQueue, engine: EngineThread, name: str, *, lease: float = 5.0, drain_call: float = 0.75) -> Worker:
    timing = Timing(lease=lease, idle=0.01, retry_first=0.001, retry_longest=0.001, drain_call=drain_call)
    return Worker(name=name, model=MODEL, queue=queue, engine=engine, timing=timing, clock=asyncio.get_running_loop().time)


@asynccontextmanager
async def working(
    queue: WorkQueue,
    engine: ScriptedEngine,
    name: str = "w1",
    *,
    lease: float = 5.0,
    drain_call: float = 0.75,
    thread: type[EngineThread] = EngineThread,
) -> AsyncIterator[Worker]:
    engine_thread = thread(engine)
    worker = new_worker(queue, engine_thread, name, lease=lease, drain_call=drain_call)
    running = asyncio.ensure_future(worker.run())
    try:
        yield worker
    finally:
        worker.stop()
        await running
        engine_thread.close()


async def ended(queue: JobQueue, request: Request) -> Job:
    async def look() -> Job | None:
        job = await queue.get(request.tenant, request.id)
        return job if job.ended_ms is not None else None

    job = await eventually(look)
    assert job is not None
    return job


async def log_of(queue: JobQueue, request: Request) -> list[LogEntry]:
    return await queue.read_log(request.tenant, request.id, START, 10_000)


def tokens_of(log: list[LogEntry]) -> tuple[int, ...]:
    return tuple(token for entry in log for token in entry.token_ids)


async def has_committed(queue: JobQueue, request: Request, count: int) -> bool:
    return (await queue.get(request.tenant, request.id)).committed >= count


async def is_running(queue: JobQueue, request: Request) -> bool:
    return (await queue.get(request.tenant, request.id)).state is State.RUNNING
