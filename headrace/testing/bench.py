"""A queue on a test bench: virtual time, a few shorthands, and a look at what the ports do not show. The same for every adapter."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import count
from typing import Any, NamedTuple, Protocol

from redis.asyncio import Redis

from headrace.ids import choose_shard
from headrace.load import Load
from headrace.ports import Append, Claim, Finish, Held, Housekeeping, Intake, JobQueue, Submission, Verdict, WorkQueue
from headrace.queues.redis import RedisQueue
from headrace.queues.rules import QueueLimits, is_suspect
from headrace.queues.server import Library
from headrace.queues.shards import read_library
from headrace.request import Lane
from headrace.state import State
from headrace.testing.builders import DAY_MS, make_request, make_submission
from headrace.testing.queue.intake import unix_ms
from headrace.testing.queue.memory import MemoryQueue

MODEL = "test-model"
LANES = tuple(Lane)
LEASE_MS = 5_000

CLOCK_KEY = "headrace:clock"
"""Unix microseconds, for libraries on virtual time."""
_REAL_CLOCK = "  local time = redis.call('TIME')\n  return time[1] * 1000000 + time[2]\n"


class Queue(JobQueue, Intake, WorkQueue, Housekeeping, Protocol):
    """All ports of the queue, as every adapter implements them."""

    async def load(self) -> Load: ...


class Outcome(NamedTuple):
    """An outbox entry."""

    job_id: str
    tenant: str
    state: State
    reason: str


class Shorthands:
    """Calls with the arguments that a test does not care about filled in."""

    def __init__(self, queue: Queue) -> None:
        self.queue = queue
        self.made: dict[str, list[str]] = {}
        """Ids of submissions by tenant, whether or not they were accepted."""
        self._nonces = count()

    def submission(self, *, key: str | None = None, body_hash: str = "hash", ttl_ms: int = DAY_MS, **of_request: Any) -> Submission:
        tenant = of_request.setdefault("tenant", "alice")
        of_request.setdefault("shard", choose_shard(tenant, key, self.queue.shards))
        request = make_request(model=of_request.pop("model", MODEL), **of_request)
        self.made.setdefault(tenant, []).append(request.id)
        return make_submission(request, key=key, body_hash=body_hash, ttl_ms=ttl_ms)

    async def submit(self, **of_submission: Any) -> str:
        """Accept a new job and return its id. Tenant "alice", 3 prompt tokens and 8 more unless told otherwise."""
        return (await self.queue.accept(self.submission(**of_submission))).job_id

    async def state(self, job_id: str, tenant: str = "alice") -> State:
        return (await self.queue.get(tenant, job_id)).state

    async def claim(
        self,
        worker: str = "w1",
        *,
        nonce: str | None = None,
        models: Sequence[str] = (MODEL,),
        lanes: Sequence[Lane] = LANES,
        max_jobs: int = 100,
        max_tokens: int = 1_000_000,
        lease_ms: int = LEASE_MS,
    ) -> list[Claim]:
        return await self.queue.claim(
            worker=worker,
            nonce=f"n{next(self._nonces)}" if nonce is None else nonce,
            models=models,
            lanes=lanes,
            max_jobs=max_jobs,
            max_tokens=max_tokens,
            lease_ms=lease_ms,
        )

    async def claim_suspect(self, worker: str = "w1", *, nonce: str | None = None, lease_ms: int = LEASE_MS) -> Claim | None:
        nonce = f"n{next(self._nonces)}" if nonce is None else nonce
        return await self.queue.claim_suspect(worker=worker, nonce=nonce, models=(MODEL,), lease_ms=lease_ms)

    async def summon(self, worker: str = "w1") -> bool:
        return await self.queue.summon(worker=worker, models=(MODEL,))

    async def append(self, job_id: str, epoch: int, start: int, tokens: int = 1) -> Verdict:
        """Tokens are their positions: token i of any job has the id i."""
        ids = tuple(range(start, start + tokens))
        text = "".join(f"<{i}>" for i in ids)
        return (await self.queue.append([Append(job_id=job_id, epoch=epoch, start=start, token_ids=ids, text=text)]))[0]

    async def renew(self, job_id: str, epoch: int, lease_ms: int = LEASE_MS) -> Verdict:
        return (await self.queue.renew([Held(job_id, epoch)], lease_ms))[0]

    async def finish(self, job_id: str, epoch: int, committed: int, state: State = State.DONE, reason: str = "stop") -> Verdict:
        return (await self.queue.finish([Finish(job_id=job_id, epoch=epoch, committed=committed, state=state, reason=reason)]))[0]

    async def release(self, job_id: str, epoch: int, delay_ms: int = 0) -> Verdict:
        return (await self.queue.release([Held(job_id, epoch)], delay_ms))[0]


class Bench(Shorthands, ABC):
    """`queue` on a clock that only `advance` moves."""

    def __init__(self, queue: Queue, now_ms: int) -> None:
        super().__init__(queue)
        self.now_ms = now_ms

    async def advance(self, ms: int) -> None:
        self.now_ms += ms
        await self._set_clock()

    @abstractmethod
    async def _set_clock(self) -> None:
        """Bring the store's clock to `now_ms`."""

    async def aclose(self) -> None:
        """Let go of what the bench holds."""

    @abstractmethod
    async def outbox(self) -> list[Outcome]: ...

    @abstractmethod
    async def withheld(self) -> frozenset[str]:
        """Ids of jobs that wait to be admitted."""

    @abstractmethod
    async def audit(self) -> None:
        """Asserts that everything the store keeps about its jobs agrees."""


class MemoryBench(Bench):
    def __init__(self, limits: QueueLimits) -> None:
        self.memory = MemoryQueue(clock=lambda: self.now_ms, limits=limits)
        super().__init__(self.memory, unix_ms())

    async def _set_clock(self) -> None:
        """The store asks for the time."""

    async def outbox(self) -> list[Outcome]:
        return [Outcome(*entry[1:]) for entry in self.memory.outbox]

    async def withheld(self) -> frozenset[str]:
        return self.memory.withheld

    async def audit(self) -> None:
        """The store is one dict of records: there is nothing to disagree with it but the lanes."""
        states = await self.queue.states([job_id for made in self.made.values() for job_id in made])
        load = await self.queue.load()
        assert sum(lane.queued for lane in load.lanes) == states.count(State.QUEUED) - len(self.memory.withheld)


class RedisBench(Bench):
    """On a server of the test's own, whose data it deletes."""

    def __init__(self, queue: RedisQueue, raw: Any) -> None:
        super().__init__(queue, unix_ms())
        self.adapter = queue
        self.raw = raw  # Any: redis-py's types know nothing of decode_responses

    @classmethod
    async def connect(cls, url: str, limits: QueueLimits, shards: int = 1) -> "RedisBench":
        raw = Redis.from_url(url, decode_responses=True, protocol=2)
        return await cls.on(await RedisQueue.connect(url, shards=shards, limits=limits, library=on_virtual_time(read_library())), raw)

    @classmethod
    async def on(cls, queue: RedisQueue, raw: Any) -> "RedisBench":
        """`queue` on virtual time, and a client of the same server with decoded replies."""
        await raw.flushall()
        bench = cls(queue, raw)
        await bench._set_clock()
        return bench

    async def aclose(self) -> None:
        await self.adapter.aclose()
        await self.raw.aclose()

    async def _set_clock(self) -> None:
        await self.raw.set(CLOCK_KEY, self.now_ms * 1_000)

    async def outbox(self) -> list[Outcome]:
        entries = [entry for prefix in self._prefixes() for _, entry in await self.raw.xrange(prefix + "outbox")]
        return [Outcome(entry["id"], entry["tenant"], State(entry["state"]), entry["why"]) for entry in entries]

    async def withheld(self) -> frozenset[str]:
        return frozenset([job_id for prefix in self._prefixes() for job_id in await self.raw.zrange(prefix + "withheld", 0, -1)])

    async def audit(self) -> None:
        for prefix in self._prefixes():
            await _audit_shard(self.raw, prefix)

    def _prefixes(self) -> list[str]:
        return [f"headrace:{{{shard:02x}}}:" for shard in range(self.adapter.shards)]


def on_virtual_time(library: Library) -> Library:
    """The library with its one clock replaced by a key."""
    assert library.text.count(_REAL_CLOCK) == 1
    assert library.text.count("'TIME'") == 1
    return replace(library, text=library.text.replace(_REAL_CLOCK, f"  return tonumber(redis.call('GET', '{CLOCK_KEY}'))\n"))


async def _audit_shard(raw: Any, prefix: str) -> None:
    jobs: dict[str, dict[str, str]] = {}
    async for key in raw.scan_iter(match=prefix + "job:*", count=1000):
        jobs[key.removeprefix(prefix + "job:")] = await raw.hgetall(key)
    withheld = {job_id for job_id, job in jobs.items() if "withheld" in job}
    assert all(jobs[job_id]["state"] == "delayed" for job_id in withheld)
    in_state: dict[str, set[str]] = {state: {job_id for job_id, job in jobs.items() if job["state"] == state} for state in State}
    ended = set(jobs) - in_state["queued"] - in_state["delayed"] - in_state["running"]
    live = set(jobs) - ended
    members = {name: set(await raw.zrange(prefix + name, 0, -1)) for name in ("lease", "delay", "withheld", "deadline", "viewer", "ended")}
    assert members["lease"] == in_state["running"]
    assert members["withheld"] == withheld
    assert members["delay"] == in_state["delayed"] - withheld
    assert members["deadline"] == in_state["queued"] | in_state["delayed"]
    assert members["ended"] == ended
    assert members["viewer"] <= live
    assert all((job_id in in_state["running"]) == ("owner" in job) for job_id, job in jobs.items())
    for worker in {job["owner"] for job in jobs.values() if "owner" in job}:
        held = {job_id for job_id, job in jobs.items() if job.get("owner") == worker}
        assert await raw.smembers(f"{prefix}held:{worker}") == held
    await _audit_meter(raw, prefix + "counters", [jobs[job_id] for job_id in live])
    tenants = {jobs[job_id]["tenant"] for job_id in live}
    assert {key async for key in raw.scan_iter(match=prefix + "tenant:*")} == {f"{prefix}tenant:{tenant}" for tenant in tenants}
    for tenant in tenants:
        await _audit_meter(raw, f"{prefix}tenant:{tenant}", [jobs[job_id] for job_id in live if jobs[job_id]["tenant"] == tenant])
    await _audit_lanes(raw, prefix, {job_id: jobs[job_id] for job_id in in_state["queued"]})
    for job_id, job in jobs.items():
        assert job["key"] == "" or await raw.get(job["key"]) == job_id


async def _audit_meter(raw: Any, meter: str, live: Sequence[dict[str, str]]) -> None:
    shown = await raw.hmget(meter, "live", "cost")
    assert [int(count or 0) for count in shown] == [len(live), sum(int(job["cost"]) for job in live)]


async def _audit_lanes(raw: Any, prefix: str, queued: dict[str, dict[str, str]]) -> None:
    wards: dict[str, dict[str, set[str]]] = {}
    suspects = {job_id for job_id, job in queued.items() if is_suspect(int(job["crash"]), int(job["exp"]))}
    for model in {job["model"] for job in queued.values()}:
        assert set(await raw.zrange(f"{prefix}suspects:{model}", 0, -1)) == {i for i in suspects if queued[i]["model"] == model}
    for job_id, job in queued.items():
        if job_id in suspects:
            continue
        wards.setdefault(f"{job['lane']}:{job['model']}", {}).setdefault(job["tenant"], set()).add(job_id)
    depth = {ward: int(n) for ward, n in (await raw.hgetall(prefix + "depth")).items()}
    assert {ward: n for ward, n in depth.items() if n} == Counter(f"{job['lane']}:{job['model']}" for job in queued.values())
    for ward in depth:
        tenants = wards.get(ward, {})
        lane, model = ward.split(":", 1)
        assert set(await raw.zrange(f"{prefix}vt:{ward}", 0, -1)) == set(tenants)
        assert set(tenants).isdisjoint(idle := await raw.zrange(f"{prefix}idle:{ward}", 0, -1))
        assert tenants or not idle
        for tenant, ids in tenants.items():
            assert set(await raw.zrange(f"{prefix}q:{lane}:{len(model)}:{model}:{tenant}", 0, -1)) == ids
