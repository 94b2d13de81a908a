"""From settings to a queue: what the processes' composition roots call."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from headrace.errors import QueueUnavailable
from headrace.queues.redis import RedisQueue
from headrace.queues.rules import QueueLimits
from headrace.queues.server import Server, read_library
from headrace.settings import Settings

logger = logging.getLogger(__name__)


@asynccontextmanager
async def connect(settings: Settings) -> AsyncIterator[RedisQueue]:
    """The queue on the settings' store, closed at the end. Raises SettingsError for a bad URL.

    The store need not be there yet: until it is, calls raise QueueUnavailable, and the first one that meets a server without our functions
    brings them along.
    """
    limits = QueueLimits(
        max_live_jobs=settings.max_live_jobs,
        max_live_cost=settings.max_live_cost,
        max_solo_crashes=settings.max_solo_crashes,
        retention_ms=settings.retention_s * 1_000,
        viewer_grace_ms=settings.viewer_grace_ms,
    )
    server = Server(settings.redis_url, read_library())
    try:
        try:
            await server.install()
        except QueueUnavailable as error:
            logger.warning("going on without the state store for now: %s", error)
        yield RedisQueue(server, shards=settings.shards, limits=limits)
    finally:
        await server.aclose()
