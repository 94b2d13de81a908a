"""What a worker says about itself: one at work from its step loop, a standby while it waits."""

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from headrace.errors import QueueUnavailable
from headrace.ports import WorkQueue
from headrace.worker_status import WorkerStatus
from workers.ports import EngineStats

logger = logging.getLogger(__name__)


def status_of(
    worker: str, model: str, stats: EngineStats, *, active_requests: int = 0, step_s: float | None = None, standby: bool = False
) -> WorkerStatus:
    """Of this process. `step_s`: the median of its last steps."""
    return WorkerStatus(
        worker=worker,
        pid=os.getpid(),
        model=model,
        device=stats.device,
        memory_used=stats.memory_used,
        memory_total=stats.memory_total,
        kv_tokens_used=stats.kv_tokens_used,
        kv_tokens_total=stats.kv_tokens_total,
        active_requests=active_requests,
        steps=stats.steps,
        standby=standby,
        waiting=stats.waiting,
        preemptions=stats.preemptions,
        shrunk_steps=stats.shrunk_steps,
        step_s=step_s,
        dtype=stats.dtype,
        kv_dtype=stats.kv_dtype,
    )


@asynccontextmanager
async def reporting(queue: WorkQueue, status: Callable[[], WorkerStatus], *, every: float, ttl_ms: int) -> AsyncIterator[None]:
    """Reports meanwhile, every so many seconds. Beside the body: a store that does not answer must not keep a standby from its turn."""
    task = asyncio.ensure_future(_keep_reporting(queue, status, every, ttl_ms))
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def _keep_reporting(queue: WorkQueue, status: Callable[[], WorkerStatus], every: float, ttl_ms: int) -> None:
    while True:
        try:
            await queue.report(status(), ttl_ms)
        except QueueUnavailable as error:
            logger.debug("no report: %s", error)  # who is at work says that the store is away
        await asyncio.sleep(every)
