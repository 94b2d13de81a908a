from collections.abc import AsyncIterator

import pytest

from headrace.embedded import EmbeddedValkey
from headrace.queues.redis import RedisQueue


@pytest.fixture
async def queue(valkey: EmbeddedValkey) -> AsyncIterator[RedisQueue]:
    queue = await RedisQueue.connect(valkey.url)
    yield queue
    await queue.aclose()
