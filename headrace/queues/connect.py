"""From settings to a queue: what the processes' composition roots call."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from headrace.errors import SettingsError
from headrace.kafka.address import address_of
from headrace.ports import RequestLog
from headrace.queues.outbox import RedisOutbox
from headrace.queues.redis import RedisQueue
from headrace.queues.rules import QueueLimits
from headrace.queues.server import Server, serving
from headrace.queues.shards import read_library
from headrace.settings import Settings


@asynccontextmanager
async def connect(settings: Settings) -> AsyncIterator[RedisQueue]:
    """The queue on the settings' store, which need not be there yet; closed at the end. Raises SettingsError for a bad URL."""
    async with _store(settings) as server:
        yield RedisQueue(server, shards=settings.shards, limits=_limits(settings))


@asynccontextmanager
async def connect_submitter(settings: Settings) -> AsyncIterator[tuple[RedisQueue, RequestLog | None]]:
    """The same for the API, with Kafka in front of the store, if that is set. Neither need be there yet. Raises SettingsError."""
    address = address_of(settings)
    if address is None:
        async with connect(settings) as queue:
            yield queue, None
        return
    try:
        # Not above: the client is there only where Kafka is wanted.
        from headrace.kafka.producer import LogProducer
        from headrace.kafka.queue import KafkaQueue
        from headrace.kafka.topics import Topics
    except ModuleNotFoundError as error:
        raise SettingsError(f"HEADRACE_QUEUE_URL needs the package {error.name}: pip install headrace[kafka]") from None
    topics = Topics(settings.kafka_prefix)
    async with _store(settings) as server, LogProducer(address, [topics.accepted], timeout_s=settings.kafka_timeout_s) as log:
        yield KafkaQueue(server, shards=settings.shards, limits=_limits(settings), log=log, topics=topics), log


@asynccontextmanager
async def connect_outbox(settings: Settings) -> AsyncIterator[RedisOutbox]:
    """The outbox of the same store, in the same way as the queue."""
    async with serving(settings.redis_url, read_library()) as server:
        yield RedisOutbox(server, shards=settings.shards, limits=_limits(settings))


@asynccontextmanager
async def _store(settings: Settings) -> AsyncIterator[Server]:
    async with serving(settings.redis_url, read_library()) as server:
        await server.warn_of_losses()
        yield server


def _limits(settings: Settings) -> QueueLimits:
    return QueueLimits(
        max_live_jobs=settings.max_live_jobs,
        max_live_cost=settings.max_live_cost,
        max_tenant_jobs=settings.max_tenant_jobs,
        max_tenant_cost=settings.max_tenant_cost,
        max_solo_crashes=settings.max_solo_crashes,
        retention_ms=settings.retention_s * 1_000,
        viewer_grace_ms=settings.viewer_grace_ms,
    )
