"""Two API processes behind one address: one is told to go while a hundred streams are open on it."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from headrace.client import stream_chat
from headrace.queues.connect import connect
from headrace.settings import Settings
from headrace.testing.api_process import ApiProcess
from headrace.testing.eventually import eventually
from headrace.testing.proxy import proxy_to
from headrace.testing.scripted_worker import PANGRAM, Pace, ScriptedWorker
from headrace.testing.store import Store
from headrace.testing.tiny_model import make_model

MODEL = "tiny"
STREAMS = 100
WITHIN_S = 10.0


@pytest.fixture
async def replicas(tmp_path: Path, valkey: Store) -> AsyncIterator[list[ApiProcess]]:
    await asyncio.to_thread(make_model, tmp_path / MODEL)
    # One that waits longer for ordinary calls than it may take for streams: these must be cut at once.
    yield [ApiProcess(valkey.url, tmp_path / MODEL, HEADRACE_SHUTDOWN_S="8") for _ in range(2)]
    async with connect(Settings(redis_url=valkey.url)) as queue:
        while jobs := [job for job in await queue.list_jobs("default", after=None, limit=200) if job.ended_ms is None]:
            for job in jobs:
                await queue.cancel("default", job.request.id)


async def test_a_hundred_streams_move_to_the_other_one(replicas: list[ApiProcess], valkey: Store) -> None:
    pace, seen = Pace(free=False), [list[str]() for _ in range(STREAMS)]

    def read(number: int, url: str) -> None:
        body: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 20}
        with httpx.Client(base_url=url, timeout=60) as client:
            for chunk in stream_chat(client, body):
                seen[number].append(chunk["choices"][0]["delta"].get("content", ""))

    async def all_have(count: int) -> bool:
        return all(len(texts) >= count for texts in seen)

    async with AsyncExitStack() as stack:
        queue = await stack.enter_async_context(connect(Settings(redis_url=valkey.url)))
        await stack.enter_async_context(ScriptedWorker(queue, model=MODEL, pace=pace).run())
        leaving, staying = [await stack.enter_async_context(api.run()) for api in replicas]
        proxy = await stack.enter_async_context(proxy_to(replicas[0].url))
        direct = [await stack.enter_async_context(httpx.AsyncClient(base_url=api.url, timeout=20)) for api in replicas]
        for api, http in zip(replicas, direct, strict=True):
            await api.ready(http)
        pool = stack.enter_context(ThreadPoolExecutor(STREAMS))
        loop = asyncio.get_running_loop()
        reading = [loop.run_in_executor(pool, read, number, proxy.url) for number in range(STREAMS)]
        await eventually(lambda: all_have(1), within=60, pause=0.02)
        pace.allow(3 * STREAMS)
        assert "headrace_open_streams 100.0" in (await direct[0].get("/metrics")).text
        proxy.upstream = replicas[1].url
        started = time.monotonic()
        leaving.send_signal(signal.SIGTERM)
        assert await leaving.wait() == 0
        assert time.monotonic() - started < WITHIN_S
        pace.release()
        async with asyncio.timeout(60):
            await asyncio.gather(*reading)
        assert staying.returncode is None
    assert seen == [["", *PANGRAM, ""]] * STREAMS
