"""The registries on a test bench: virtual time, a few shorthands, and a look at what the ports do not show."""

from collections.abc import Sequence
from typing import Any, Self

from redis.asyncio import Redis

from headrace.batch import BATCH_ENDED, BATCH_TRANSITIONS, Batch, BatchStatus, NewBatch
from headrace.batch_ports import BatchLease, BatchUpdate, Stored
from headrace.file import FileRecord, Purpose
from headrace.ids import new_batch_id, new_file_id
from headrace.queues.server import Server
from headrace.registries.batches import RedisBatches
from headrace.registries.files import RedisFiles
from headrace.registries.library import read_library
from headrace.request import Endpoint
from headrace.testing.bench import CLOCK_KEY, on_virtual_time
from headrace.testing.builders import DAY_MS
from headrace.testing.queue.intake import unix_ms

BATCH_LEASE_MS = 30_000
_FILES, _BATCHES = "headrace:{files}:", "headrace:{batches}:"


def paths() -> dict[BatchStatus, tuple[BatchStatus, ...]]:
    """For each status one way to it from `validating`, which is left out."""
    found: dict[BatchStatus, tuple[BatchStatus, ...]] = {BatchStatus.VALIDATING: ()}
    for status in (ways := [BatchStatus.VALIDATING]):
        for onward in sorted(BATCH_TRANSITIONS[status] - found.keys()):
            found[onward] = (*found[status], onward)
            ways.append(onward)
    return found


class RegistryBench:
    """On a server of the test's own, whose data it deletes, and a clock that only `advance` moves."""

    def __init__(self, server: Server, raw: Any) -> None:
        self.files = RedisFiles(server)
        self.batches = RedisBatches(server)
        self.raw = raw  # Any: redis-py's types know nothing of decode_responses
        self.now_ms = unix_ms()
        self._server = server

    @classmethod
    async def connect(cls, url: str) -> Self:
        raw = Redis.from_url(url, decode_responses=True, protocol=2)
        await raw.flushall()
        bench = cls(await Server.connect(url, on_virtual_time(read_library())), raw)
        await bench.advance(0)
        return bench

    async def aclose(self) -> None:
        await self._server.aclose()
        await self.raw.aclose()

    async def advance(self, ms: int) -> None:
        self.now_ms += ms
        await self.raw.set(CLOCK_KEY, self.now_ms * 1_000)

    # Files

    def file(self, **fields: Any) -> FileRecord:
        defaults: dict[str, Any] = {
            "id": new_file_id(),
            "tenant": "alice",
            "filename": "in.jsonl",
            "purpose": Purpose.BATCH,
            "size": 10,
            "created_ms": 1,
        }
        return FileRecord(**defaults | fields)

    async def add(self, record: FileRecord, *, key: str | None = None, body_hash: str = "hash") -> Stored:
        return await self.files.add(record, idempotency_key=key, body_hash=body_hash)

    async def added(self, *, key: str | None = None, **fields: Any) -> FileRecord:
        record = self.file(**fields)
        assert not (await self.add(record, key=key)).replayed
        return record

    async def listed(
        self,
        tenant: str = "alice",
        *,
        purpose: Purpose | None = None,
        after: str | None = None,
        limit: int = 100,
        newest_first: bool = True,
    ) -> list[FileRecord]:
        return await self.files.list_files(tenant, purpose=purpose, after=after, limit=limit, newest_first=newest_first)

    # Batches

    def new(self, **fields: Any) -> NewBatch:
        defaults: dict[str, Any] = {"id": new_batch_id(), "tenant": "alice", "endpoint": Endpoint.CHAT, "input_file_id": new_file_id()}
        return NewBatch(**defaults | fields)

    async def create(self, new: NewBatch, *, key: str | None = None, body_hash: str = "hash", window_ms: int = DAY_MS) -> Stored:
        return await self.batches.create(new, window_ms=window_ms, idempotency_key=key, body_hash=body_hash)

    async def created(self, **fields: Any) -> str:
        new = self.new(**fields)
        assert not (await self.create(new)).replayed
        return new.id

    async def acquire(self, batch_id: str, holder: str = "h", lease_ms: int = BATCH_LEASE_MS) -> BatchLease | None:
        return await self.batches.acquire(batch_id, holder, lease_ms)

    async def held(self, batch_id: str, holder: str = "h", lease_ms: int = BATCH_LEASE_MS) -> int:
        """The epoch of a lease that must be had."""
        lease = await self.acquire(batch_id, holder, lease_ms)
        assert lease is not None
        return lease.epoch

    async def update(self, batch_id: str, epoch: int, lease_ms: int = BATCH_LEASE_MS, **fields: Any) -> Batch:
        return await self.batches.update(batch_id, epoch, BatchUpdate(**fields), lease_ms)

    async def bring(self, batch_id: str, status: BatchStatus, epoch: int) -> None:
        """The batch into the status, by its holder; nobody has cancelled it so far."""
        for step in paths()[status]:
            if step is BatchStatus.CANCELLING:
                await self.batches.cancel("alice", batch_id)
            else:
                assert (await self.update(batch_id, epoch, status=step)).status is step

    async def audit(self) -> None:
        """Asserts that everything the store keeps about its objects agrees."""
        files = await self._records(_FILES)
        purposes = {f"{len(purpose)}:{purpose}": purpose for purpose in Purpose}
        await self._audit_lists(_FILES, files, {"0:": None, **purposes})
        assert set(await self.raw.zrange(_FILES + "expiry", 0, -1)) <= files.keys()
        batches = await self._records(_BATCHES)
        await self._audit_lists(_BATCHES, batches, {"0:": None})
        ended = {batch_id for batch_id, batch in batches.items() if batch["status"] in BATCH_ENDED}
        assert set(await self.raw.zrange(_BATCHES + "ended", 0, -1)) == ended
        assert set(await self.raw.zrange(_BATCHES + "due", 0, -1)) == batches.keys() - ended
        assert await self.raw.smembers(_BATCHES + "stalled") <= batches.keys() - ended
        for batch_id, batch in batches.items():
            assert ("holder" in batch) == ("until" in batch)
            assert ("ended" in batch) == (batch_id in ended)
            assert batch_id not in ended or not batch.keys() & {"holder", "unseen"}

    async def _records(self, prefix: str) -> dict[str, dict[str, str]]:
        keys = [key async for key in self.raw.scan_iter(match=prefix + "record:*", count=1_000)]
        return {key.removeprefix(prefix + "record:"): await self.raw.hgetall(key) for key in keys}

    async def _audit_lists(self, prefix: str, records: dict[str, dict[str, str]], groups: dict[str, str | None]) -> None:
        listed = set(await self._keys(prefix + "list:*"))
        for tenant in {record["tenant"] for record in records.values()}:
            for group, purpose in groups.items():
                own = {i for i, one in records.items() if one["tenant"] == tenant and purpose in (None, one.get("purpose"))}
                key = f"{prefix}list:{group}:{tenant}"
                assert set(await self.raw.zrange(key, 0, -1)) == own
                listed.discard(key)
        assert not listed, "a list of nobody's"
        keyed = {record["key"]: record_id for record_id, record in records.items() if record.get("key")}
        assert {key: await self.raw.get(key) for key in await self._keys(prefix + "idem:*")} == keyed

    async def _keys(self, pattern: str) -> Sequence[str]:
        return [key async for key in self.raw.scan_iter(match=pattern, count=1_000)]
