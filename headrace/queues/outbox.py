"""The outbox on Redis or Valkey: `relay.lua`."""

from collections.abc import Sequence

from headrace.cursor import LogPosition
from headrace.ids import shard_of
from headrace.outbox_ports import Asked, AskedPage, Ended
from headrace.queues.shards import Shards
from headrace.request import Lane
from headrace.wire.native_key import client_id_of


class RedisOutbox(Shards):
    """Implements Outbox and Recovery."""

    async def ended(self, shard: int, *, owner: str, lease_ms: int, limit: int) -> list[Ended] | None:
        mine, *found = await self._call(shard, "outbox", owner, lease_ms, limit)
        return [self._ended(shard, *fields) for fields in found[0]] if mine else None

    async def relayed(self, shard: int, entry: str) -> None:
        await self._call(shard, "relayed", entry)

    async def waiting(self, limit: int) -> int:
        return sum(await self._everywhere("unrelayed", limit))

    async def trace(self, job_id: str, traceparent: str, ttl_ms: int) -> None:
        await self._call(shard_of(job_id), "trace", job_id, traceparent, ttl_ms + self._limits.retention_ms)

    async def ask(self, job_id: str) -> None:
        await self._call(shard_of(job_id), "ask", job_id)

    async def asked(self, shard: int, *, owner: str, lease_ms: int, limit: int, cursor: int) -> AskedPage | None:
        mine, *page = await self._call(shard, "asked", owner, lease_ms, limit, cursor)
        if not mine:
            return None
        jobs = [Asked(job_id.decode(), _position(at.decode()), self._client_id(shard, key)) for job_id, at, key in page[1]]
        return AskedPage(jobs, int(page[0]))

    async def told(self, shard: int, positions: Sequence[tuple[str, LogPosition | None]]) -> None:
        flat = [part for job_id, position in positions for part in (job_id, "" if position is None else str(position))]
        await self._call(shard, "told", *flat)

    async def recovered(self) -> bool:
        return all(await self._everywhere("recovered"))

    async def recover(self, *, owner: str, lease_ms: int) -> bool:
        return bool(await self._call(0, "recover", owner, lease_ms))

    async def end_recovery(self) -> None:
        await self._everywhere("end_recovery")

    async def entomb(self, ended: Sequence[tuple[str, str]]) -> int:
        calls = []
        for shard in {shard_of(job_id) for job_id, _ in ended}:
            flat = [part for one in ended if shard_of(one[0]) == shard for part in one]
            calls.append(self._fcall(shard, "entomb", self._limits.retention_ms, *flat))
        return sum(await self._server.run(*calls))

    def _ended(self, shard: int, entry: bytes, job_id: bytes, tenant: bytes, lane: bytes, key: bytes, trace: bytes) -> Ended:
        return Ended(
            entry=entry.decode(),
            job_id=job_id.decode(),
            tenant=tenant.decode(),
            lane=Lane(lane.decode()) if lane else None,
            client_id=self._client_id(shard, key),
            has_key=bool(key),
            traceparent=trace.decode() or None,
        )

    def _client_id(self, shard: int, key: bytes) -> str | None:
        """From P idem:<#tenant>:<tenant>:<key>."""
        if not key:
            return None
        length, _, rest = key.decode().removeprefix(self._prefix(shard) + "idem:").partition(":")
        return client_id_of(rest[int(length) + 1 :])


def _position(text: str) -> LogPosition:
    epoch, n = text.split("-")
    return LogPosition(int(epoch), int(n))
