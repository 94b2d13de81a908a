"""Fixtures for tests that need a real state store, a real Kafka, or a real model."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis

from headrace.testing import queue_environ
from headrace.testing.backend import Backend, Kind
from headrace.testing.kafka import KafkaSite, broker, new_site, origin
from headrace.testing.kafka_bench import make_topics
from headrace.testing.origin import Origin
from headrace.testing.store import Store, new_store

BROKERS = Path(__file__).parent / "integration" / "kafka"


def pytest_addoption(parser: pytest.Parser) -> None:
    told = "what tests of the API stand on: a queue in memory, Redis, or Redis with Kafka in front, then for processes and trees too"
    parser.addoption("--queue", choices=list(Kind), default=Kind.MEMORY, help=told)


@pytest.fixture(scope="session")
def valkey_of_all(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """A server for the whole run, with whatever the tests before have left in it."""
    with new_store(tmp_path_factory.mktemp("valkey")) as store:
        yield store


@pytest.fixture
def valkey(valkey_of_all: Store) -> Store:
    """The same server, emptied."""
    with Redis.from_url(valkey_of_all.url) as client:
        client.flushall()
    return valkey_of_all


@pytest.fixture(scope="session")
def kafka_of_all(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Servers of a Kafka for the whole run."""
    with broker(tmp_path_factory.mktemp("kafka") / "tansu.log") as servers:
        yield servers


@pytest.fixture
def kafka(kafka_of_all: str) -> KafkaSite:
    """The same servers, with topics of the test's own, which it creates."""
    return new_site(kafka_of_all)


@pytest.fixture(scope="session")
def backend_of_all(request: pytest.FixtureRequest, valkey_of_all: Store) -> Backend:
    kind = Kind(request.config.getoption("--queue"))
    if kind is not Kind.KAFKA:
        return Backend(kind, valkey_of_all.url)
    site = new_site(request.getfixturevalue("kafka_of_all"))
    make_topics(site)
    return Backend(kind, valkey_of_all.url, site)


@pytest.fixture
def backend(backend_of_all: Backend, valkey: Store) -> Backend:
    """What the option asks for, emptied."""
    return backend_of_all


@pytest.fixture(scope="session", autouse=True)
def queue_of_processes(request: pytest.FixtureRequest) -> Iterator[None]:
    """With Kafka asked for, every API and tree that tests start has it too."""
    if Kind(request.config.getoption("--queue")) is not Kind.KAFKA:
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(queue_environ.VARIABLE, f"kafka://{request.getfixturevalue('kafka_of_all')}")
        yield


@pytest.fixture(scope="session")
def demo_model() -> Path:
    """The folder of the demo model, converted on first use into the user's cache."""
    # Imported here: most tests need neither, and they take a while.
    from headrace.model_folder import DEMO_MODEL
    from headrace.settings import Settings
    from workers.convert import ensure_folder

    return ensure_folder(DEMO_MODEL, Settings().cache_dir)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("apache_kafka") is not None and origin() is Origin.OWN:
        pytest.skip("needs Apache Kafka: HEADRACE_TEST_KAFKA names none, and there are no containers")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Before pytest leaves out what is not asked for by its marker: whatever has a broker, be it one of its own or none that answers."""
    for item in items:
        if "kafka" in getattr(item, "fixturenames", ()) or item.path.is_relative_to(BROKERS):
            item.add_marker("kafka")
