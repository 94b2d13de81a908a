"""Janitors, workers and APIs of several versions on one store."""

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from redis.asyncio import Redis

from headrace.cursor import START
from headrace.ports import Append, Verdict
from headrace.queues.entry import encode_append
from headrace.queues.redis import RedisQueue
from headrace.queues.rules import QueueLimits
from headrace.queues.server import Library
from headrace.queues.shards import read_library
from headrace.state import State
from headrace.testing.bench import Shorthands
from headrace.testing.builders import DAY_MS
from headrace.testing.eventually import eventually
from headrace.testing.store import Store

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


INTAKE = ("reserve", "admit", "withdraw", "forget_lapsed", "generation", "begin_generation")
OF_WITHHELD = ("    redis.call('ZREM', P .. 'withheld', id)\n", "    redis.call('HDEL', P .. 'job:' .. id, 'withheld')\n")


def before_logs() -> Library:
    """The functions as they were before anything was withheld."""
    library = read_library()
    text = library.text
    for piece in OF_WITHHELD:
        assert text.count(piece) == 1
        text = text.replace(piece, "")
    lines = [line for line in text.splitlines() if not any(line.startswith(f"register('{name}'") for name in INTAKE)]
    return replace(library, text="\n".join(lines))


def before_cached() -> Library:
    """The functions as they were before workers told what of a prompt was cached."""
    library = read_library()
    text = library.text
    for piece in ("register('commit', commit, 'allow-oom')\n", "  if f[4] then marker[5], marker[6] = 'cached', f[4] end\n"):
        assert text.count(piece) == 1
        text = text.replace(piece, "")
    return replace(library, text=text)


@pytest.fixture
async def raw(valkey: Store) -> AsyncIterator[Any]:
    async with Redis.from_url(valkey.url, protocol=2) as client:
        yield client


@pytest.fixture
async def queue(valkey: Store, raw: Any) -> AsyncIterator[RedisQueue]:
    queue = await RedisQueue.connect(valkey.url)
    yield queue
    await queue.aclose()


async def test_while_only_an_older_janitor_runs_its_age_is_unknown(valkey: Store, queue: RedisQueue) -> None:
    old = await RedisQueue.connect(valkey.url, library=older())  # its functions take the place of ours
    assert await old.promote(10) == 0
    assert await queue.swept_ms_ago() is None
    await old.aclose()


async def test_an_older_process_that_starts_costs_no_round(valkey: Store, queue: RedisQueue) -> None:
    await queue.end_round()
    old = await RedisQueue.connect(valkey.url, library=older())
    await queue.end_round()
    assert await queue.swept_ms_ago() is not None
    assert await old.promote(10) == 0
    await old.aclose()


async def test_reports_of_older_and_newer_workers_are_read(queue: RedisQueue, raw: Any) -> None:
    for worker, more in (("old", {}), ("new", {"standby": True, "mood": "fine", "dtype": "int8", "waiting": 2})):
        report = json.dumps({**REPORT, "worker": worker, **more})
        await raw.execute_command("FCALL", "headrace_1_report", 1, "headrace:{00}:", worker, report, 60_000)
    read = [(status.worker, status.standby, status.dtype, status.waiting) for status in await queue.workers()]
    assert read == [("new", True, "int8", 2), ("old", False, None, None)]


async def test_older_workers_append_beside_those_that_tell_cached_tokens(valkey: Store, queue: RedisQueue, raw: Any) -> None:
    """Whatever functions the store has by then."""
    on_bench = Shorthands(queue)
    job_id = await on_bench.submit()
    [claim] = await on_bench.claim()
    told = Append(job_id=job_id, epoch=claim.epoch, start=0, token_ids=(7,), text="a", cached_tokens=64)
    old = await RedisQueue.connect(valkey.url, library=before_cached())
    assert await queue.append([told]) == [Verdict.OK]
    await old.aclose()
    data = encode_append(replace(told, token_ids=(8,)))
    assert await raw.execute_command("FCALL", "headrace_1_append", 1, "headrace:{00}:", job_id, claim.epoch, 1, 1, data) == [b"ok"]
    assert await queue.append([replace(told, start=2, cached_tokens=0)]) == [Verdict.OK]
    await on_bench.finish(job_id, claim.epoch, 3)
    [first, second, _, end] = await queue.read_log("alice", job_id, START, 10)
    assert (first.token_ids, second.token_ids, end.cached_tokens) == ((7,), (8,), 64)


async def test_an_end_that_older_functions_wrote_tells_no_cached_tokens(valkey: Store, queue: RedisQueue) -> None:
    on_bench = Shorthands(queue)
    job_id = await on_bench.submit()
    [claim] = await on_bench.claim()
    await queue.append([Append(job_id=job_id, epoch=claim.epoch, start=0, token_ids=(7,), text="a", cached_tokens=64)])
    old = await RedisQueue.connect(valkey.url, library=before_cached())
    await on_bench.finish(job_id, claim.epoch, 1)
    [_, end] = await queue.read_log("alice", job_id, START, 10)
    assert (end.end, end.cached_tokens) == (State.DONE, None)
    await old.aclose()


async def test_what_is_withheld_is_safe_from_older_functions(valkey: Store, queue: RedisQueue) -> None:
    """An older process has put its functions in place of ours, and ends, sweeps and claims with them."""
    on_bench = Shorthands(queue)
    kept, cancelled, expiring = (on_bench.submission(ttl_ms=ttl_ms) for ttl_ms in (DAY_MS, DAY_MS, 1))
    for submission in (kept, cancelled, expiring):
        await queue.reserve(submission)
    old = await RedisQueue.connect(valkey.url, library=before_logs())
    assert await old.promote(10) == 0
    assert await Shorthands(old).claim() == []
    assert await old.cancel("alice", cancelled.request.id) is State.CANCELLED

    async def expired() -> bool:
        return await old.expire(10) == 1

    await eventually(expired)
    await old.aclose()
    assert [(await queue.admit(submission)).replayed for submission in (kept, cancelled, expiring)] == [False, True, True]
    assert [claim.request.id for claim in await on_bench.claim()] == [kept.request.id]
    load = await queue.load()
    assert (load.cost, [depth.queued for depth in load.lanes]) == (kept.request.cost, [0])


async def test_what_older_functions_have_ended_lapses_without_a_trace(valkey: Store) -> None:
    queue = await RedisQueue.connect(valkey.url, limits=QueueLimits(reservation_ms=0))
    submission = Shorthands(queue).submission()
    await queue.reserve(submission)
    old = await RedisQueue.connect(valkey.url, library=before_logs())
    await old.cancel("alice", submission.request.id)
    await old.aclose()
    assert [await queue.forget_lapsed(10) for _ in range(2)] == [1, 0]
    assert (await queue.get("alice", submission.request.id)).state is State.CANCELLED
    assert (await queue.load()).cost == 0
    await queue.aclose()
