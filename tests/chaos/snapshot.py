"""The store as it is at the end of a run, read straight from the server."""

from collections.abc import Iterator, Sequence
from typing import Any

import orjson
from redis.asyncio import Redis

from headrace.testing.eventually import eventually
from tests.chaos.history import Entry, Store, StoredJob

PREFIX = "headrace:{00}:"
AT_ONCE = 500
"""Jobs read in one round trip."""
EMPTY_SETS = ("lease", "delay", "deadline", "viewer")
NO_KEYS = ("q:*", "vt:*", "suspects:*", "held:*", "tenant:*")
"""Patterns of keys that live as long as some job does."""


async def comes_to_rest(url: str, within_s: float) -> bool:
    """Whether every job has ended by then: some have no client any more that waits for it."""
    async with _store(url) as store:

        async def nothing_lives() -> bool:
            return not int(await store.hget(PREFIX + "counters", "live") or 0)

        try:
            return await eventually(nothing_lives, within_s, pause=0.2)
        except TimeoutError:
            return False


async def take_snapshot(url: str) -> Store:
    async with _store(url) as store:
        ids = [key.removeprefix(PREFIX + "job:") async for key in store.scan_iter(match=PREFIX + "job:*", count=1_000)]
        jobs = [job for some in _parts(ids) for job in await _read(store, some)]
        outbox = [(fields["id"], fields["state"]) for _, fields in await store.xrange(PREFIX + "outbox")]
        return Store({job.id: job for job in jobs}, tuple(outbox), await _leftovers(store))


def _store(url: str) -> Any:
    # Any: redis-py's types know nothing of decode_responses.
    return Redis.from_url(url, decode_responses=True, protocol=2, socket_timeout=60.0)


def _parts(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    return (ids[i : i + AT_ONCE] for i in range(0, len(ids), AT_ONCE))


async def _read(store: Any, ids: Sequence[str]) -> list[StoredJob]:
    pipeline = store.pipeline(transaction=False)
    for job_id in ids:
        pipeline.hmget(f"{PREFIX}job:{job_id}", "key", "tenant", "state", "reason", "n")
        pipeline.xrange(f"{PREFIX}log:{job_id}")
    replies = await pipeline.execute()
    return [_job(job_id, *replies[2 * i : 2 * i + 2]) for i, job_id in enumerate(ids)]


def _job(job_id: str, fields: Sequence[str], log: Sequence[tuple[str, dict[str, str]]]) -> StoredJob:
    key, tenant, state, reason, committed = fields
    return StoredJob(job_id, key.rpartition(":")[2], tenant, state, reason, int(committed), tuple(_entry(*entry) for entry in log))


def _entry(place: str, fields: dict[str, str]) -> Entry:
    epoch, n = map(int, place.split("-"))
    if "end" in fields:
        return Entry(epoch, n, end=fields["end"], reason=fields["why"])
    choice, tokens, text = orjson.loads(fields["d"])
    return Entry(epoch, n, tuple(tokens), text, choice=choice)


async def _leftovers(store: Any) -> dict[str, int]:
    live, cost = await store.hmget(PREFIX + "counters", "live", "cost")
    found = {"live": int(live or 0), "cost": int(cost or 0)}
    for name in EMPTY_SETS:
        found[name] = await store.zcard(PREFIX + name)
    for pattern in NO_KEYS:
        found[pattern] = len([key async for key in store.scan_iter(match=PREFIX + pattern, count=1_000)])
    found["depth"] = sum(abs(int(count)) for count in (await store.hgetall(PREFIX + "depth")).values())
    return found
