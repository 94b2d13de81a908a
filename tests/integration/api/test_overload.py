"""More work than room: who is refused is told so before anything is stored, and what was accepted is finished."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis

from headrace.client import parse_events
from headrace.embedded import EmbeddedValkey
from headrace.ports import JobQueue
from headrace.queues.connect import connect
from headrace.queues.redis import RedisQueue
from headrace.queues.rules import QueueLimits
from headrace.settings import Settings
from headrace.testing.backend import Backend
from headrace.testing.bench import Queue
from headrace.testing.builders import ManualClock
from headrace.testing.eventually import eventually
from headrace.testing.listening import listening
from headrace.testing.quota import QuotaValkey
from headrace.testing.scripted_worker import PANGRAM, Pace, ScriptedWorker
from headrace.testing.words import WordPrompter
from producer_api.app import create_app
from producer_api.archive import Archive
from producer_api.catalog import Catalog
from producer_api.server import Server

MODEL = "test-model"
CHAT = "/v1/chat/completions"
BODY: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 20}


@asynccontextmanager
async def api_on(queue: JobQueue, archive: Archive) -> AsyncIterator[httpx.AsyncClient]:
    """One more replica of the API."""
    settings = Settings(port=0, model=MODEL, shutdown_s=2)
    catalog = Catalog({MODEL: WordPrompter})
    await catalog.load()
    async with (
        listening(Server(create_app(queue, archive, catalog, settings), settings)) as url,
        httpx.AsyncClient(base_url=url, timeout=20) as client,
    ):
        yield client


async def submit(http: httpx.AsyncClient, key: str | None = None, **fields: Any) -> httpx.Response:
    return await http.post("/v1/jobs", json=BODY | fields, headers={} if key is None else {"idempotency-key": key})


def refusal(response: httpx.Response) -> tuple[int, str, str, str | None]:
    error = response.json()["error"]
    return response.status_code, error["type"], error["code"], error["param"]


class TestBounds:
    @pytest.fixture
    def limits(self) -> QueueLimits:
        """Override with `@pytest.mark.parametrize("limits", [...])`."""
        return QueueLimits(max_live_jobs=4, max_tenant_jobs=3, max_tenant_cost=80)

    @pytest.fixture
    async def queue(self, backend: Backend, clock: ManualClock, limits: QueueLimits) -> AsyncIterator[Queue]:
        async with backend.open(clock=clock, limits=limits) as queue:
            yield queue

    async def test_a_tenant_at_its_bound(self, http: httpx.AsyncClient, caplog: pytest.LogCaptureFixture) -> None:
        for _ in range(3):
            assert (await submit(http)).status_code == 202
        refused = await submit(http)
        assert refusal(refused) == (429, "rate_limit_error", "rate_limit_exceeded", None)
        assert refused.json()["error"]["message"] == "Your tenant has 3 live jobs, the limit is 3."
        assert refused.headers["retry-after"] in ("1", "2")
        streamed = await http.post(CHAT, json=BODY | {"stream": True})
        assert streamed.status_code == 429, "a stream that was never opened is refused like everything else"
        told = [record.getMessage() for record in caplog.records if record.name == "producer_api.envelope"]
        assert told == ["requests refused count=1 why=a tenant's bound is reached, most=default with 1"]

    async def test_a_tenant_at_its_bound_on_tokens(self, http: httpx.AsyncClient) -> None:
        assert (await submit(http, max_tokens=70)).status_code == 202
        refused = await submit(http)
        assert refusal(refused) == (429, "rate_limit_error", "rate_limit_exceeded", None)
        assert refused.json()["error"]["message"] == "Your tenant has 75 tokens of live jobs, the limit is 80 and this one needs 25."
        too_large = await submit(http, max_tokens=76)
        assert refusal(too_large) == (400, "invalid_request_error", "request_too_large", None)
        assert "retry-after" not in too_large.headers

    @pytest.mark.parametrize("limits", [QueueLimits(max_live_jobs=2)])
    async def test_a_full_queue(self, http: httpx.AsyncClient) -> None:
        first = await submit(http, "k")
        await submit(http)
        refused = await submit(http)
        assert refusal(refused) == (503, "server_error", "queue_full", None)
        assert refused.json()["error"]["message"] == "The queue is full: 2 live jobs, the limit is 2."
        assert (await submit(http, "k")).json() == first.json(), "what is there already needs no room"

    async def test_every_replica_says_the_same(
        self, http: httpx.AsyncClient, queue: Queue, archive: Archive, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("random.random", lambda: 0.0)
        ids = [(await submit(http)).json()["id"] for _ in range(3)]
        clock.advance(42_000)
        await http.post(f"/v1/jobs/{ids[0]}/cancel")
        await submit(http)
        async with api_on(queue, archive) as other:
            assert {(await submit(api)).headers["retry-after"] for api in (http, other)} == {"42"}
        clock.advance(3_600_000)
        assert (await submit(http)).headers["retry-after"] == "96", "nothing leaves: two minutes, less what spreads the callers"


@pytest.fixture
def own_valkey(tmp_path: Path) -> Iterator[EmbeddedValkey]:
    server = EmbeddedValkey(tmp_path / "store")
    server.start()
    yield server
    server.stop()


def store(server: EmbeddedValkey) -> AbstractAsyncContextManager[RedisQueue]:
    return connect(Settings(redis_url=server.url))


async def test_a_store_without_memory_finishes_what_runs(own_valkey: EmbeddedValkey, archive: Archive) -> None:
    pace = Pace(free=False)
    async with (
        store(own_valkey) as queue,
        api_on(queue, archive) as http,
        ScriptedWorker(queue, model=MODEL, pace=pace).run(),
        Redis.from_url(own_valkey.url) as admin,
    ):
        job_id = (await submit(http)).json()["id"]
        streaming = asyncio.create_task(http.post(CHAT, json=BODY | {"stream": True}))
        await eventually(lambda: running(queue, 2))
        await admin.config_set("maxmemory", 1)
        for refused in (await submit(http), await http.post(CHAT, json=BODY)):
            assert refusal(refused) == (503, "server_error", "queue_full", None)
            assert refused.json()["error"]["message"] == "The state store has reached its memory limit."
            assert 30 <= int(refused.headers["retry-after"]) < 38
        assert (await http.get("/ready")).json()["reasons"] == ["the state store has reached its memory limit"]
        pace.release()
        events = list(parse_events((await streaming).text.split("\n")))
        assert events[-1].data == "[DONE]"
        await eventually(lambda: running(queue, 0))
        job = (await http.get(f"/v1/jobs/{job_id}")).json()
        assert (job["status"], job["output_text"]) == ("done", "".join(PANGRAM))
        await admin.config_set("maxmemory", 0)
        assert (await submit(http)).status_code == 202


async def running(queue: JobQueue, count: int) -> bool:
    return (await queue.load()).running == count


@pytest.mark.parametrize("fsync", ["always", "everysec"])
async def test_a_full_disk_makes_no_false_promise(tmp_path: Path, archive: Archive, fsync: str) -> None:
    server = QuotaValkey(tmp_path / "store", 48 * 1_024)
    await asyncio.to_thread(server.start)
    try:
        async with store(server) as queue, api_on(queue, archive) as http, Redis.from_url(server.url) as admin:
            await admin.config_set("appendfsync", fsync)
            promised: dict[str, str] = {}
            for n in range(1_000):
                answer = await submit(http, f"key-{n}")
                if answer.status_code != 202:
                    break
                promised[f"key-{n}"] = answer.json()["id"]
            assert promised, "some of them fit"
            assert refusal(answer) == (503, "server_error", "queue_unavailable", None)
            again = [(await submit(http, f"more-{n}")).status_code for n in range(5)]
            assert again == [503] * 5
            assert (await http.get("/ready")).status_code == 503
            server.lift()
            if fsync == "always":
                # The server cannot take back what it has not written yet, so it ends before it answers. Whoever runs it starts it again.
                assert await asyncio.to_thread(server.process.wait) == 1
                await asyncio.to_thread(server.start)
            await eventually(lambda: is_ready(http), pause=0.05)
            for key, job_id in promised.items():
                assert (await submit(http, key)).json()["id"] == job_id
            refused = await submit(http, f"key-{len(promised)}")
            assert refused.status_code == 202
            live = int(await admin.hget("headrace:{00}:counters", "live") or 0)
            assert live == len(promised) + 1, "the refused one was stored once at most, and is now the caller's"
    finally:
        await asyncio.to_thread(server.stop)


async def is_ready(http: httpx.AsyncClient) -> bool:
    return (await http.get("/ready")).status_code == 200
