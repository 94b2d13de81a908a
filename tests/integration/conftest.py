from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from headrace.embedded import EmbeddedValkey
from headrace.queues.redis import RedisQueue


@pytest.fixture
async def queue(valkey: EmbeddedValkey) -> AsyncIterator[RedisQueue]:
    """On the run's own server, emptied."""
    async with Redis.from_url(valkey.url) as raw:
        await raw.flushall()
    queue = await RedisQueue.connect(valkey.url)
    yield queue
    await queue.aclose()
