"""From settings to a queue: what the processes' composition roots call."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from headrace.queues.redis import RedisQueue
from headrace.queues.rules import QueueLimits
from headrace.queues.server import serving
from headrace.queues.shards import read_library
from headrace.settings import Settings


@asynccontextmanager
async def connect(settings: Settings) -> AsyncIterator[RedisQueue]:
    """The queue on the settings' store, which need not be there yet; closed at the end. Raises SettingsError for a bad URL."""
    limits = QueueLimits(
        max_live_jobs=settings.max_live_jobs,
        max_live_cost=settings.max_live_cost,
        max_tenant_jobs=settings.max_tenant_jobs,
        max_tenant_cost=settings.max_tenant_cost,
        max_solo_crashes=settings.max_solo_crashes,
        retention_ms=settings.retention_s * 1_000,
        viewer_grace_ms=settings.viewer_grace_ms,
    )
    async with serving(settings.redis_url, read_library()) as server:
        await server.warn_of_losses()
        yield RedisQueue(server, shards=settings.shards, limits=limits)
