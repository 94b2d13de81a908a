"""A store whose own settings let it lose what it has acknowledged."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from headrace.embedded import EmbeddedValkey
from headrace.queues.connect import connect
from headrace.settings import Settings
from headrace.testing.store import Store


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[EmbeddedValkey]:
    """A server of its own: the one that all share must keep its settings."""
    server = EmbeddedValkey(tmp_path)
    server.start()
    yield server
    server.stop()


@pytest.fixture
async def raw(valkey: Store) -> AsyncIterator[Redis]:
    async with Redis.from_url(valkey.url) as raw:
        yield raw


async def warnings_of(url: str, caplog: pytest.LogCaptureFixture) -> list[str]:
    caplog.clear()
    async with connect(Settings(redis_url=url)):
        return [record.getMessage() for record in caplog.records]


async def test_what_may_be_lost_is_told(valkey: Store, raw: Redis, caplog: pytest.LogCaptureFixture) -> None:
    assert await warnings_of(valkey.url, caplog) == []
    await raw.config_set("appendonly", "no", "maxmemory-policy", "allkeys-lru")
    assert sorted(await warnings_of(valkey.url, caplog)) == [
        "the state store drops what was accepted once its memory is full: its maxmemory-policy is allkeys-lru and should be noeviction",
        "the state store loses what was accepted when it is restarted: its appendonly is no and should be yes",
    ]


async def test_a_server_that_forbids_to_ask_is_used_as_it_is(valkey: Store, raw: Redis, caplog: pytest.LogCaptureFixture) -> None:
    await raw.config_set("maxmemory-policy", "allkeys-lru")
    await raw.acl_setuser("modest", enabled=True, passwords=["+pw"], keys=["*"], channels=["*"], categories=["+@all"], commands=["-config"])
    scheme, _, rest = valkey.url.partition("://")
    assert await warnings_of(f"{scheme}://modest:pw@{rest}", caplog) == []
