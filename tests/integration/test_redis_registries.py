"""Files and batches on a real server: lost replies, no memory, lost functions, no server, and the queue beside them."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from redis.asyncio import Redis

from headrace.batch import BatchStatus, NewBatch, Progress
from headrace.batch_ports import BatchUpdate
from headrace.embedded import EmbeddedValkey
from headrace.errors import QueueFull, QueueUnavailable, SettingsError
from headrace.file import FileRecord, Purpose
from headrace.ids import new_batch_id, new_file_id
from headrace.queues import connect as queues
from headrace.registries.connect import Registries, connect
from headrace.request import Endpoint
from headrace.settings import Settings
from headrace.testing.builders import DAY_MS, make_request, make_submission
from headrace.testing.proxy import Proxy, proxy_to

LEASE_MS = 60_000


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedValkey]:
    """A server of this test alone."""
    server = EmbeddedValkey(Path(tmp_path_factory.mktemp("v")))
    server.start()
    yield server
    server.stop()


@pytest.fixture
async def registries(server: EmbeddedValkey) -> AsyncIterator[Registries]:
    async with connect(Settings(redis_url=server.url)) as registries:
        yield registries


@pytest.fixture
async def proxy(server: EmbeddedValkey) -> AsyncIterator[Proxy]:
    async with proxy_to(unquote(urlsplit(server.url).path)) as proxy:
        yield proxy


@pytest.fixture
async def lossy(proxy: Proxy) -> AsyncIterator[Registries]:
    """The same store through the proxy."""
    async with connect(Settings(redis_url=f"redis://127.0.0.1:{proxy.port}/0")) as registries:
        yield registries


@pytest.fixture
async def raw(server: EmbeddedValkey) -> AsyncIterator[Any]:
    client = Redis.from_url(server.url, decode_responses=True)
    yield client
    await client.aclose()


def file(purpose: Purpose = Purpose.BATCH, batch_id: str | None = None) -> FileRecord:
    return FileRecord(id=new_file_id(), tenant="alice", filename="f", purpose=purpose, size=1, created_ms=1, batch_id=batch_id)


def batch() -> NewBatch:
    return NewBatch(id=new_batch_id(), tenant="alice", endpoint=Endpoint.CHAT, input_file_id=new_file_id())


async def add(registries: Registries, record: FileRecord) -> bool:
    return (await registries.files.add(record, idempotency_key="k", body_hash="hash")).replayed


async def create(registries: Registries, new: NewBatch) -> bool:
    return (await registries.batches.create(new, window_ms=DAY_MS, idempotency_key=new.id, body_hash="hash")).replayed


async def held(registries: Registries) -> str:
    """A batch leased at epoch 1."""
    new = batch()
    await create(registries, new)
    lease = await registries.batches.acquire(new.id, "holder", LEASE_MS)
    assert lease is not None
    assert lease.epoch == 1
    return new.id


async def insist(proxy: Proxy, call: Callable[[], Awaitable[Any]]) -> Any:
    """The reply is lost; the caller repeats the call."""
    proxy.drop_replies = True
    with pytest.raises(QueueUnavailable):
        await call()
    proxy.drop_replies = False
    return await call()


class TestLostReplies:
    async def test_making(self, proxy: Proxy, lossy: Registries) -> None:
        record, new = file(), batch()
        assert await insist(proxy, lambda: add(lossy, record))
        assert await insist(proxy, lambda: create(lossy, new))
        assert len(await lossy.files.list_files("alice", purpose=None, after=None, limit=10, newest_first=True)) == 1
        assert len(await lossy.batches.list_batches("alice", after=None, limit=10)) == 1

    async def test_working(self, proxy: Proxy, lossy: Registries) -> None:
        new = batch()
        await create(lossy, new)
        lease = await insist(proxy, lambda: lossy.batches.acquire(new.id, "holder", LEASE_MS))
        assert lease.epoch == 1
        for status in (BatchStatus.IN_PROGRESS, BatchStatus.FINALIZING, BatchStatus.COMPLETED):
            update = BatchUpdate(status=status, progress=Progress(total=1))
            answer = await insist(proxy, partial(lossy.batches.update, new.id, 1, update, LEASE_MS))
            assert (answer.status, answer.progress) == (status, update.progress)

    async def test_giving_back_and_cancelling(self, proxy: Proxy, lossy: Registries) -> None:
        batch_id = await held(lossy)
        await insist(proxy, lambda: lossy.batches.release(batch_id, 1, 0))
        assert await lossy.batches.dispatch(10, 1_000) == [batch_id]
        assert (await insist(proxy, lambda: lossy.batches.cancel("alice", batch_id))).status is BatchStatus.CANCELLING


class TestServer:
    async def test_without_memory_old_work_ends_and_new_work_waits(self, registries: Registries, raw: Any) -> None:
        files, batches, _ = registries
        record, output = file(), file(purpose=Purpose.BATCH_OUTPUT, batch_id="batch_1")
        await add(registries, record)
        ending, given, waiting = await held(registries), await held(registries), batch()
        await create(registries, waiting)
        await raw.config_set("maxmemory", 1)
        with pytest.raises(QueueFull, match="memory limit"):
            await create(registries, batch())
        with pytest.raises(QueueFull):
            await files.add(file(), idempotency_key=None, body_hash="hash")
        await files.put(output)
        assert await files.get("alice", output.id) == output
        await batches.release(given, 1, 0)
        assert set(await batches.dispatch(10, 1_000)) == {given, waiting.id}
        assert await batches.acquire(waiting.id, "holder", LEASE_MS) is not None
        await batches.update(ending, 1, BatchUpdate(progress=Progress(total=1), status=BatchStatus.FAILED), LEASE_MS)
        assert (await batches.cancel("alice", given)).status is BatchStatus.CANCELLING
        assert await batches.purge_ended(10, 0) == [ending]
        await files.remove("alice", record.id)
        assert await files.overdue(10) == []
        assert len(await batches.list_batches("alice", after=None, limit=10)) == 2
        await raw.config_set("maxmemory", 0)
        await create(registries, batch())

    async def test_lost_functions_are_loaded_again(self, registries: Registries, raw: Any) -> None:
        batch_id = await held(registries)
        await raw.function_flush()
        assert (await registries.batches.update(batch_id, 1, BatchUpdate(model="m"), LEASE_MS)).model == "m"

    async def test_the_queue_lives_beside_them(self, server: EmbeddedValkey, registries: Registries, raw: Any) -> None:
        async with queues.connect(Settings(redis_url=server.url)) as queue:
            await queue.accept(make_submission(make_request(tenant="alice")))
            await held(registries)
            await raw.function_delete("headrace_1")
            await queue.accept(make_submission(make_request(tenant="alice")))
            await held(registries)
        libraries = await raw.function_list()
        assert len(libraries) == 2

    async def test_the_store_may_come_later(self, server: EmbeddedValkey) -> None:
        server.stop()
        async with connect(Settings(redis_url=server.url)) as registries:
            with pytest.raises(QueueUnavailable):
                await add(registries, file())
            server.start()
            assert not await add(registries, file())

    async def test_a_bad_url_is_a_settings_error(self) -> None:
        with pytest.raises(SettingsError, match="HEADRACE_REDIS_URL"):
            async with connect(Settings(redis_url="http://:secret@host")):
                pass
