"""What the suites of the API stand on: a queue in memory, or with `pytest --queue` a store, with Kafka in front of it or without."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum

from redis import Redis

from headrace.queues.redis import RedisQueue
from headrace.queues.rules import QueueLimits
from headrace.queues.server import Library, serving
from headrace.queues.shards import read_library
from headrace.testing.bench import CLOCK_KEY, Queue, on_virtual_time
from headrace.testing.builders import ManualClock
from headrace.testing.kafka import KafkaSite
from headrace.testing.kafka_bench import kafka_queue
from headrace.testing.queue.memory import MemoryQueue


class Kind(StrEnum):
    MEMORY = "memory"
    REDIS = "redis"
    KAFKA = "kafka"


class StoreClock(ManualClock):
    """The clock of a library on virtual time. It moves the store's before it returns, like the one of a queue in memory."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self._url = url
        self._tell()

    def advance(self, ms: int) -> None:
        super().advance(ms)
        self._tell()

    def _tell(self) -> None:
        with Redis.from_url(self._url) as store:
            store.set(CLOCK_KEY, self.now_ms * 1_000)


@dataclass(frozen=True, slots=True)
class Backend:
    """`url` is the store's; `site` has the topics of a queue on Kafka, which no pump reads: the API admits what it accepts itself."""

    kind: Kind
    url: str
    site: KafkaSite | None = None

    def clock(self) -> ManualClock:
        """Of one queue, to be opened with it."""
        return ManualClock() if self.kind is Kind.MEMORY else StoreClock(self.url)

    @asynccontextmanager
    async def open(self, *, clock: ManualClock | None = None, limits: QueueLimits | None = None) -> AsyncIterator[Queue]:
        """Without `clock`, time passes by itself."""
        limits = limits or QueueLimits()
        if self.kind is Kind.MEMORY:
            yield MemoryQueue(limits=limits) if clock is None else MemoryQueue(clock=clock, limits=limits)
            return
        library = read_library() if clock is None else on_virtual_time(read_library())
        async with self._on_store(library, limits) as queue:
            yield queue

    @asynccontextmanager
    async def _on_store(self, library: Library, limits: QueueLimits) -> AsyncIterator[RedisQueue]:
        if self.site is None:
            async with serving(self.url, library) as server:
                yield RedisQueue(server, shards=1, limits=limits)
            return
        async with kafka_queue(self.url, self.site, limits, library) as queue:
            yield queue

    def lose_everything(self, queue: Queue) -> None:
        """As a store does whose disk is lost."""
        if isinstance(queue, MemoryQueue):
            queue.lose_everything()
            return
        with Redis.from_url(self.url) as store:
            store.flushall()


async def ended(queue: Queue, tenant: str = "default") -> int:
    """How many of the tenant's jobs have."""
    return sum(job.ended_ms is not None for job in await queue.list_jobs(tenant, after=None, limit=1_000))
