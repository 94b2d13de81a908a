from collections.abc import AsyncIterator

import pytest

from headrace.queues.redis import RedisQueue
from headrace.testing.store import Store


@pytest.fixture
async def queue(valkey: Store) -> AsyncIterator[RedisQueue]:
    queue = await RedisQueue.connect(valkey.url)
    yield queue
    await queue.aclose()
