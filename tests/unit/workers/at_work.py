"""A worker at work on the in-memory queue, with an engine whose tokens are known."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from headrace.ports import START, Job, LogEntry
from headrace.queues.memory import MemoryQueue
from headrace.request import Request
from headrace.state import State
from headrace.testing.eventually import eventually
from workers.backends.scripted import ScriptedEngine
from workers.engine_thread import EngineThread
from workers.ports import Delta, EngineRequest
from workers.worker import Timing, Worker

MODEL = "test-model"


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


@asynccontextmanager
async def working(queue: MemoryQueue, engine: ScriptedEngine, name: str = "w1") -> AsyncIterator[Worker]:
    thread = EngineThread(engine)
    worker = Worker(
        name=name,
        model=MODEL,
        queue=queue,
        engine=thread,
        timing=Timing(idle=0.01, retry_first=0.001, retry_longest=0.001),
        clock=asyncio.get_running_loop().time,
    )
    running = asyncio.ensure_future(worker.run())
    try:
        yield worker
    finally:
        worker.stop()
        await running
        thread.close()


async def ended(queue: MemoryQueue, request: Request) -> Job:
    async def look() -> Job | None:
        job = await queue.get(request.tenant, request.id)
        return job if job.ended_ms is not None else None

    job = await eventually(look)
    assert job is not None
    return job


async def log_of(queue: MemoryQueue, request: Request) -> list[LogEntry]:
    return await queue.read_log(request.tenant, request.id, START, 10_000)


def tokens_of(log: list[LogEntry]) -> tuple[int, ...]:
    return tuple(token for entry in log for token in entry.token_ids)


async def has_committed(queue: MemoryQueue, request: Request, count: int) -> bool:
    return (await queue.get(request.tenant, request.id)).committed >= count


async def is_running(queue: MemoryQueue, request: Request) -> bool:
    return (await queue.get(request.tenant, request.id)).state is State.RUNNING
