"""Janitors, workers and APIs of several versions on one store."""

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from redis.asyncio import Redis

from headrace.embedded import EmbeddedValkey
from headrace.queues.redis import RedisQueue
from headrace.queues.server import Library
from headrace.queues.shards import read_library

LATER = ("end_round", "swept_ago")
REPORT = {
    "worker": "w1",
    "pid": 1,
    "model": "m",
    "device": "cpu",
    "memory_used": 1,
    "memory_total": 2,
    "kv_tokens_used": 3,
    "kv_tokens_total": 4,
    "active_requests": 0,
    "steps": 5,
}
"""As workers wrote it before they said whether they stand by."""


def older() -> Library:
    """The functions as they were before rounds left a time."""
    library = read_library()
    lines = [line for line in library.text.splitlines() if not any(line.startswith(f"register('{name}'") for name in LATER)]
    assert len(lines) == len(library.text.splitlines()) - len(LATER)
    return replace(library, text="\n".join(lines))


@pytest.fixture
async def raw(valkey: EmbeddedValkey) -> AsyncIterator[Any]:
    async with Redis.from_url(valkey.url, protocol=2) as client:
        yield client


@pytest.fixture
async def queue(valkey: EmbeddedValkey, raw: Any) -> AsyncIterator[RedisQueue]:
    queue = await RedisQueue.connect(valkey.url)
    yield queue
    await queue.aclose()


async def test_while_only_an_older_janitor_runs_its_age_is_unknown(valkey: EmbeddedValkey, queue: RedisQueue) -> None:
    old = await RedisQueue.connect(valkey.url, library=older())  # its functions take the place of ours
    assert await old.promote(10) == 0
    assert await queue.swept_ms_ago() is None
    await old.aclose()


async def test_an_older_process_that_starts_costs_no_round(valkey: EmbeddedValkey, queue: RedisQueue) -> None:
    await queue.end_round()
    old = await RedisQueue.connect(valkey.url, library=older())
    await queue.end_round()
    assert await queue.swept_ms_ago() is not None
    assert await old.promote(10) == 0
    await old.aclose()


async def test_reports_of_older_and_newer_workers_are_read(queue: RedisQueue, raw: Any) -> None:
    for worker, more in (("old", {}), ("new", {"standby": True, "mood": "fine"})):
        report = json.dumps({**REPORT, "worker": worker, **more})
        await raw.execute_command("FCALL", "headrace_1_report", 1, "headrace:{00}:", worker, report, 60_000)
    assert [(status.worker, status.standby) for status in await queue.workers()] == [("new", True), ("old", False)]
