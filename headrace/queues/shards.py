"""The shards of a store: which keys and functions belong to a job, and calls of them."""

from typing import Any, Self

from headrace.cursor import LogPosition
from headrace.ids import is_in_shards, shard_of
from headrace.queues import rules
from headrace.queues.rules import QueueLimits
from headrace.queues.server import Command, Library, Server


def read_library() -> Library:
    return Library.read("headrace_1", "headrace.queues", "functions", "submit", "work", "quarantine", "sweep", "intake", "relay")


class Shards:
    """Bounds hold per shard."""

    def __init__(self, server: Server, *, shards: int, limits: QueueLimits) -> None:
        self._server = server
        self._shards = shards
        self._limits = limits

    @classmethod
    async def connect(cls, url: str, *, shards: int = 1, limits: QueueLimits | None = None, library: Library | None = None) -> Self:
        """Connect, and make sure the server has the function library. Raises SettingsError for a bad URL, QueueUnavailable."""
        server = await Server.connect(url, library or read_library())
        return cls(server, shards=shards, limits=limits or QueueLimits())

    async def aclose(self) -> None:
        await self._server.aclose()

    @property
    def shards(self) -> int:
        return self._shards

    def _prefix(self, shard: int) -> str:
        return f"headrace:{{{shard:02x}}}:"

    def _is_ours(self, job_id: str) -> bool:
        return is_in_shards(job_id, self._shards)

    def _shard(self, job_id: str) -> int:
        """Raises JobNotFound for text that cannot be an id of this store."""
        if not self._is_ours(job_id):
            raise rules.not_found(job_id)
        return shard_of(job_id)

    def _fcall(self, shard: int, function: str, *arguments: Any) -> Command:
        return self._server.call(function, self._prefix(shard), *arguments)

    def _range(self, job_id: str, after: LogPosition, limit: int) -> Command:
        return "XRANGE", f"{self._prefix(shard_of(job_id))}log:{job_id}", f"({after}", "+", "COUNT", limit

    async def _call(self, shard: int, function: str, *arguments: Any) -> Any:
        return (await self._server.run(self._fcall(shard, function, *arguments)))[0]

    async def _everywhere(self, function: str, *arguments: Any) -> list[Any]:
        return await self._server.run(*(self._fcall(shard, function, *arguments) for shard in range(self._shards)))

    async def _owned(self, function: str, tenant: str, job_id: str) -> list[Any]:
        """The answer of a function that looks at the tenant first. Raises JobNotFound, JobPurged."""
        reply: list[Any] = await self._call(self._shard(job_id), function, tenant, job_id)
        check_standing(reply[0], job_id)
        return reply[1:]


def check_standing(standing: bytes, job_id: str) -> None:
    if standing == b"gone":
        raise rules.purged(job_id)
    if standing != b"mine":
        raise rules.not_found(job_id)
