"""`python -m workers` as it is run: told to stop, killed with and without its engine."""

import asyncio
import os
import signal
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psutil

from headrace.cursor import START
from headrace.job import Job
from headrace.queues.redis import RedisQueue
from headrace.request import Request
from headrace.state import State
from headrace.testing.builders import make_request, make_submission
from headrace.testing.eventually import eventually
from headrace.testing.store import Store
from workers.backends.scripted import answer_to

MODEL = "test-model"
LEASE_MS = 1_000
ENDLESS = 10**7


@asynccontextmanager
async def worker(valkey: Store, **settings: str) -> AsyncIterator[Process]:
    env = os.environ | {
        "HEADRACE_REDIS_URL": valkey.url,
        "HEADRACE_MODEL_NAME": MODEL,
        "HEADRACE_ENGINE": "scripted",
        "HEADRACE_LEASE_MS": str(LEASE_MS),
        **settings,
    }
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "workers", env=env)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


def engines_of(process: Process) -> list[psutil.Process]:
    return psutil.Process(process.pid).children()


async def gone(process: psutil.Process) -> bool:
    """An orphan that nobody waits for stays as a zombie."""
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


async def submit(queue: RedisQueue, max_tokens: int) -> Request:
    request = make_request(max_tokens=max_tokens)
    await queue.accept(make_submission(request))
    return request


async def in_full_swing(queue: RedisQueue, request: Request) -> bool:
    return (await queue.get("default", request.id)).committed > 10


async def given_back(queue: RedisQueue, request: Request) -> Job | None:
    job = await queue.get("default", request.id)
    return job if job.state is State.QUEUED else None


async def check_log(queue: RedisQueue, request: Request, committed: int) -> None:
    log = await queue.read_log("default", request.id, START, ENDLESS)
    assert tuple(token for entry in log for token in entry.token_ids) == answer_to(request.prompt_ids, committed)


async def test_told_to_stop_it_gives_back_what_it_runs(valkey: Store, queue: RedisQueue) -> None:
    request = await submit(queue, ENDLESS)
    async with worker(valkey) as process:
        await eventually(lambda: in_full_swing(queue, request), pause=0.01)
        process.terminate()
        assert await asyncio.wait_for(process.wait(), 5) == 0
    job = await given_back(queue, request)
    assert job is not None
    assert job.crashes == 0
    await check_log(queue, request, job.committed)


async def test_an_engine_whose_supervisor_is_killed_stops_and_gives_back(valkey: Store, queue: RedisQueue) -> None:
    request = await submit(queue, ENDLESS)
    async with worker(valkey) as process:
        await eventually(lambda: in_full_swing(queue, request), pause=0.01)
        [engine] = engines_of(process)
        process.kill()
        await eventually(lambda: gone(engine), pause=0.01)
    job = await given_back(queue, request)
    assert job is not None
    assert job.crashes == 0
    await check_log(queue, request, job.committed)


async def test_both_killed_the_lease_brings_the_job_to_another_worker(valkey: Store, queue: RedisQueue) -> None:
    request = await submit(queue, 1_000)
    async with worker(valkey) as process:
        await eventually(lambda: in_full_swing(queue, request), pause=0.01)
        [engine] = engines_of(process)
        process.kill()
        engine.kill()
        await eventually(lambda: gone(engine), pause=0.01)
        killed = asyncio.get_running_loop().time()
    assert await queue.reap_expired(10) == 0

    async def swept() -> bool:
        return await queue.reap_expired(10) == 1

    await eventually(swept, pause=0.05)
    assert asyncio.get_running_loop().time() - killed < LEASE_MS / 1_000 + 1
    async with worker(valkey):

        async def done() -> bool:
            return (await queue.get("default", request.id)).state is State.DONE

        await eventually(done, within=60, pause=0.02)
    await check_log(queue, request, 1_000)


async def test_a_standby_is_a_second_process_that_goes_on(valkey: Store, queue: RedisQueue) -> None:
    request = await submit(queue, ENDLESS)
    async with worker(valkey, HEADRACE_STANDBY="1") as process:
        await eventually(lambda: in_full_swing(queue, request), pause=0.01)
        [status] = [status for status in await queue.workers() if not status.standby]
        [standby] = [engine for engine in engines_of(process) if engine.pid != status.pid]
        os.kill(status.pid, signal.SIGKILL)

        async def taken_over() -> bool:
            return any(status.pid == standby.pid and status.active_requests for status in await queue.workers())

        await eventually(taken_over, pause=0.01)
        assert (await queue.get("default", request.id)).epoch == 3
        process.terminate()
        assert await asyncio.wait_for(process.wait(), 10) == 0
