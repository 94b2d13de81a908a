"""Several shards, and a server in cluster mode, which refuses a function that touches a second slot."""

import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import RedisError

from headrace.batch import BatchStatus, NewBatch
from headrace.batch_ports import BatchUpdate
from headrace.cursor import START
from headrace.embedded import find_binary
from headrace.file import FileRecord, Purpose
from headrace.ids import new_batch_id, new_file_id, shard_of
from headrace.ports import Verdict
from headrace.queues.redis import RedisQueue
from headrace.queues.rules import QueueLimits
from headrace.registries.batches import RedisBatches
from headrace.registries.connect import connect
from headrace.registries.files import RedisFiles
from headrace.request import Endpoint, Lane
from headrace.settings import Settings
from headrace.state import State
from headrace.testing.bench import Bench, RedisBench, Shorthands
from headrace.testing.eventually import eventually
from headrace.testing.store import Store

SHARDS = 4


@pytest.fixture
async def bench(valkey: Store) -> AsyncIterator[Bench]:
    bench = await RedisBench.connect(valkey.url, QueueLimits(), SHARDS)
    try:
        yield bench
        await bench.audit()
    finally:
        await bench.aclose()


async def spread(bench: Bench, lane: Lane = Lane.STANDARD) -> list[str]:
    """One job in each shard."""
    return [await bench.submit(shard=shard, lane=lane) for shard in range(SHARDS)]


async def test_jobs_are_claimed_from_all_shards(bench: Bench) -> None:
    ids = await spread(bench)
    assert {shard_of(job_id) for job_id in ids} == set(range(SHARDS))
    assert {claim.request.id for claim in await bench.claim()} == set(ids)


async def test_a_lane_goes_before_the_next_one_in_every_shard(bench: Bench) -> None:
    batch, interactive = await spread(bench, Lane.BATCH), await spread(bench, Lane.INTERACTIVE)
    assert {claim.request.id for claim in await bench.claim(max_jobs=SHARDS)} == set(interactive)
    assert {claim.request.id for claim in await bench.claim(max_jobs=SHARDS)} == set(batch)


async def test_budgets_hold_over_all_shards(bench: Bench) -> None:
    await spread(bench)
    assert len(await bench.claim(max_jobs=3)) == 3
    await spread(bench)
    assert len(await bench.claim(max_tokens=8)) == 2  # prompts of 3 tokens


async def test_a_repeated_claim_takes_nothing_more_anywhere(bench: Bench) -> None:
    await bench.submit(shard=2)
    first = await bench.claim(nonce="once")
    await spread(bench)
    assert await bench.claim(nonce="once") == first
    assert len(await bench.claim(nonce="twice")) == SHARDS


async def test_calls_about_many_jobs_answer_in_their_order(bench: Bench) -> None:
    ids = await spread(bench)
    claims = {claim.request.id: claim for claim in await bench.claim()}
    assert [await bench.append(job_id, claims[job_id].epoch, 0, 1 + shard_of(job_id)) for job_id in ids] == [Verdict.OK] * SHARDS
    logs = await bench.queue.read_logs([(job_id, START) for job_id in reversed(ids)], 10)
    assert [log[0].position.n for log in logs] == [4, 3, 2, 1]
    jobs = await bench.queue.get_many("alice", ids[::-1])
    assert [job and job.committed for job in jobs] == [4, 3, 2, 1]
    await bench.finish(ids[2], claims[ids[2]].epoch, 3)
    await bench.queue.forget(ids)
    assert await bench.queue.states(ids) == [State.RUNNING, State.RUNNING, None, State.RUNNING]
    ids.pop(2)
    assert sorted(await bench.queue.reap_worker("w1")) == sorted(ids)
    load = await bench.queue.load()
    assert ([depth.queued for depth in load.lanes], load.running) == ([len(ids)], 0)


async def test_a_list_is_merged_newest_first(bench: Bench) -> None:
    ids = []
    for i in range(10):
        ids.append(await bench.submit(shard=i % SHARDS))
        await bench.advance(1)
    seen: list[str] = []
    while page := await bench.queue.list_jobs("alice", after=seen[-1] if seen else None, limit=3):
        seen += [job.request.id for job in page]
    assert seen == ids[::-1]


@pytest.fixture
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a cluster of one node, which has no slots yet."""
    folder = Path(tmp_path_factory.mktemp("c"))
    port, bus = free_port(), free_port()
    where = ["--port", f"{port}", "--cluster-port", f"{bus}", "--bind", "127.0.0.1", "--dir", str(folder), "--logfile", str(folder / "log")]
    with subprocess.Popen([str(find_binary()), *where, "--cluster-enabled", "yes", "--save", ""]) as server:
        yield f"redis://127.0.0.1:{port}/0"
        server.terminate()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def give_slots(cluster: str) -> None:
    """All of them to its one node."""
    raw: Any = Redis.from_url(cluster)

    async def ready() -> bool:
        try:
            if b"cluster_state:ok" in await raw.execute_command("CLUSTER", "INFO"):
                return True
            await raw.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        except (RedisError, OSError):
            pass
        return False

    await eventually(ready, pause=0.02)
    await raw.aclose()


async def test_every_function_stays_in_its_slot(cluster: str) -> None:
    await give_slots(cluster)
    queue = await RedisQueue.connect(cluster, shards=2, limits=QueueLimits(retention_ms=1, viewer_grace_ms=1))
    await walk_through(queue)
    await queue.aclose()


async def test_every_function_of_the_registries_stays_in_its_slot(cluster: str) -> None:
    await give_slots(cluster)
    async with connect(Settings(redis_url=cluster)) as (files, batches, _):
        await walk_through_files(files)
        await walk_through_batches(batches)


async def walk_through(queue: RedisQueue) -> None:
    """Every function once."""
    bench = Shorthands(queue)
    one, two = await bench.submit(key="k", shard=0), await bench.submit(attended=True, shard=1)
    three = await bench.submit(shard=0, ttl_ms=1)
    await queue.attend([two])
    assert await queue.queue_position("alice", one) == 1
    await eventually(lambda: queue.expire(10))
    assert len(await bench.claim(lease_ms=1)) == 2
    assert await bench.append(one, 1, 0) is Verdict.OK
    assert await bench.renew(one, 1) is Verdict.OK
    assert await bench.release(one, 1, delay_ms=1) is Verdict.OK
    await eventually(lambda: queue.promote(10))
    await eventually(lambda: queue.cancel_unattended(10))
    await eventually(lambda: queue.reap_expired(10))
    (claim,) = await bench.claim()
    assert await queue.reap_worker("w1") == [one]
    (claim,) = await bench.claim()
    assert await bench.finish(one, claim.epoch, claim.committed) is Verdict.OK
    assert {job.state for job in await queue.list_jobs("alice", after=None, limit=10)} == {State.DONE, State.CANCELLED, State.EXPIRED}
    assert await queue.cancel("alice", three) is State.EXPIRED
    await queue.forget([three])
    assert await queue.states([one, three]) == [State.DONE, None]
    await queue.ping()
    assert await queue.workers() == []
    await queue.end_round()
    assert await queue.swept_ms_ago() is not None
    assert len(await queue.read_log("alice", one, START, 10)) == 2

    async def all_purged() -> bool:
        await queue.purge(10)
        return not await queue.list_jobs("alice", after=None, limit=10)

    await eventually(all_purged)


async def walk_through_files(files: RedisFiles) -> None:
    """Every function once."""
    record = FileRecord(id=new_file_id(), tenant="alice", filename="f", purpose=Purpose.BATCH, size=1, created_ms=1, expires_ms=1)
    await files.add(record, idempotency_key="k", body_hash="hash")
    await files.put(record)
    assert await files.get("alice", record.id) == record
    assert await files.list_files("alice", purpose=Purpose.BATCH, after=None, limit=10, newest_first=True) == [record]
    assert await files.overdue(10) == [record]
    assert await files.known([record.id, new_file_id()]) == [True, False]
    await files.remove("alice", record.id)


async def walk_through_batches(batches: RedisBatches) -> None:
    """Every function once."""
    new = NewBatch(id=new_batch_id(), tenant="alice", endpoint=Endpoint.CHAT, input_file_id=new_file_id())
    await batches.create(new, window_ms=1_000, idempotency_key="k", body_hash="hash")
    assert await batches.dispatch(10, 1_000) == [new.id]
    lease = await batches.acquire(new.id, "holder", 60_000)
    assert lease is not None
    await batches.release(new.id, lease.epoch, 0)
    lease = await batches.acquire(new.id, "holder", 60_000)
    assert lease is not None
    assert await batches.cancel("alice", new.id) == await batches.get("alice", new.id)
    await batches.update(new.id, lease.epoch, BatchUpdate(status=BatchStatus.CANCELLED), 60_000)
    assert [batch.status for batch in await batches.list_batches("alice", after=None, limit=10)] == [BatchStatus.CANCELLED]
    assert await batches.standing([new.id, new_batch_id()]) == [BatchStatus.CANCELLED, None]
    assert await batches.purge_ended(10, 0) == [new.id]
