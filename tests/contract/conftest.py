"""Every test of the contract runs against each adapter."""

from collections.abc import AsyncIterator

import pytest

from headrace.embedded import EmbeddedValkey
from headrace.queues.rules import QueueLimits
from headrace.testing.bench import Bench, MemoryBench, RedisBench
from headrace.testing.registry_bench import RegistryBench


@pytest.fixture
def limits() -> QueueLimits:
    """Override with `@pytest.mark.parametrize("limits", [...])`."""
    return QueueLimits(max_solo_crashes=2)


@pytest.fixture(params=["memory", "redis"])
async def bench(request: pytest.FixtureRequest, limits: QueueLimits) -> AsyncIterator[Bench]:
    if request.param == "memory":
        yield MemoryBench(limits)
        return
    valkey: EmbeddedValkey = request.getfixturevalue("valkey")
    on_redis = await RedisBench.connect(valkey.url, limits)
    try:
        yield on_redis
        await on_redis.audit()
    finally:
        await on_redis.aclose()


@pytest.fixture
async def registries(valkey: EmbeddedValkey) -> AsyncIterator[RegistryBench]:
    on_redis = await RegistryBench.connect(valkey.url)
    try:
        yield on_redis
        await on_redis.audit()
    finally:
        await on_redis.aclose()
