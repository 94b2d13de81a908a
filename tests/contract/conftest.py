"""Every test of the contract runs against each adapter."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from headrace.queues.rules import QueueLimits
from headrace.testing.bench import Bench, MemoryBench, RedisBench
from headrace.testing.kafka_bench import kafka_bench
from headrace.testing.registry_bench import RegistryBench
from headrace.testing.store import Store
from tests.engine_bench import Reference, Subject, make_checkpoint, make_reference, modelled, scripted, upstream


@pytest.fixture
def limits() -> QueueLimits:
    """Override with `@pytest.mark.parametrize("limits", [...])`."""
    return QueueLimits(max_solo_crashes=2)


@pytest.fixture(params=["memory", "redis", "kafka"])
async def bench(request: pytest.FixtureRequest, limits: QueueLimits) -> AsyncIterator[Bench]:
    if request.param == "memory":
        yield MemoryBench(limits)
        return
    valkey: Store = request.getfixturevalue("valkey")
    if request.param == "kafka":
        async with kafka_bench(valkey.url, request.getfixturevalue("kafka"), limits) as on_kafka:
            yield on_kafka
            await on_kafka.audit()
        return
    on_redis = await RedisBench.connect(valkey.url, limits)
    try:
        yield on_redis
        await on_redis.audit()
    finally:
        await on_redis.aclose()


@pytest.fixture
async def registries(valkey: Store) -> AsyncIterator[RegistryBench]:
    on_redis = await RegistryBench.connect(valkey.url)
    try:
        yield on_redis
        await on_redis.audit()
    finally:
        await on_redis.aclose()


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = Path(tmp_path_factory.mktemp("checkpoint"))
    make_checkpoint(folder)
    return folder


@pytest.fixture(scope="session")
def reference(checkpoint: Path) -> Reference:
    return make_reference(checkpoint)


@pytest.fixture(scope="session", params=["paged", "scripted", "transformers", "openai", pytest.param("vllm", marks=pytest.mark.vllm)])
def shared_subject(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Subject]:
    """An engine is made once: what takes time is to load it."""
    if request.param == "scripted":
        with scripted() as subject:
            yield subject
        return
    folder, said = request.getfixturevalue("checkpoint"), request.getfixturevalue("reference")
    if request.param == "openai":
        making = upstream(folder, said, Path(tmp_path_factory.mktemp("upstream")))
    else:
        making = modelled(request.param, folder, said)
    with making as subject:
        yield subject


@pytest.fixture
def subject(shared_subject: Subject) -> Iterator[Subject]:
    yield shared_subject
    stats = shared_subject.engine.stats()
    assert (stats.running, stats.waiting) == (0, 0), "a test left something in the engine"
