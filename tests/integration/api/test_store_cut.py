"""The wire between the API and a real store fails while streams are open: they pause, and lose nothing."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

import httpx
import pytest

from headrace.client import DONE, Event, lines_of, parse_events
from headrace.queues.redis import RedisQueue
from headrace.settings import Settings
from headrace.testing.eventually import eventually
from headrace.testing.listening import listening
from headrace.testing.proxy import Proxy, proxy_to
from headrace.testing.scripted_worker import PANGRAM, Pace, ScriptedWorker
from headrace.testing.store import Store
from headrace.testing.words import WordPrompter
from producer_api.app import create_app
from producer_api.archive import Archive
from producer_api.catalog import Catalog
from producer_api.server import Server

MODEL = "test-model"
CHAT = "/v1/chat/completions"
BODY: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "stream": True}


@dataclass
class Site:
    """An API whose wire to the store is `wire`; the worker's is another one."""

    http: httpx.AsyncClient
    wire: Proxy
    pace: Pace


@pytest.fixture
async def site(valkey: Store, archive: Archive, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Site]:
    monkeypatch.setattr("headrace.queues.server.REPLY_S", 0.3)
    monkeypatch.setattr("headrace.queues.doorbell.PING_S", 0.1)
    settings, catalog, pace = Settings(port=0, model=MODEL, ping_s=0.05, shutdown_s=2), Catalog({MODEL: WordPrompter}), Pace(free=False)
    await catalog.load()
    async with AsyncExitStack() as stack:
        wire = await stack.enter_async_context(proxy_to(unquote(urlsplit(valkey.url).path)))
        queues = [await RedisQueue.connect(url) for url in (f"redis://127.0.0.1:{wire.port}/0", valkey.url)]
        for queue in queues:
            stack.push_async_callback(queue.aclose)
        await stack.enter_async_context(ScriptedWorker(queues[1], model=MODEL, pace=pace).run())
        server = Server(create_app(queues[0], archive, catalog, settings), settings)
        url = await stack.enter_async_context(listening(server))
        yield Site(await stack.enter_async_context(httpx.AsyncClient(base_url=url, timeout=20)), wire, pace)
        wire.silent = wire.drop_replies = False


@dataclass
class Reading:
    received: bytes = b""

    @property
    def pings(self) -> int:
        return self.received.count(b": ping\n")

    @property
    def events(self) -> list[Event]:
        return list(parse_events(lines_of([self.received])))

    async def follow(self, http: httpx.AsyncClient) -> None:
        async with http.stream("POST", CHAT, json=BODY) as response:
            async for piece in response.aiter_raw():
                self.received += piece


@pytest.mark.parametrize("fault", ["drop_replies", "silent"])
async def test_a_stream_pauses_and_goes_on(site: Site, fault: str) -> None:
    reading = Reading()
    following = asyncio.create_task(reading.follow(site.http))

    async def has(tokens: int) -> bool:
        return len(reading.events) == 1 + tokens

    site.pace.allow(2)
    await eventually(lambda: has(2), pause=0.01)
    setattr(site.wire, fault, True)
    site.pace.allow(3)
    before = reading.pings

    async def goes_on_pinging() -> bool:
        return reading.pings >= before + 5

    await eventually(goes_on_pinging, pause=0.01)
    ready = await site.http.get("/ready")
    assert (ready.status_code, "queue unreachable" in ready.text) == (503, True)
    refused = await site.http.post("/v1/jobs", json={**BODY, "stream": False})
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "queue_unavailable")
    assert (await site.http.get("/health")).status_code == 200
    assert await has(2)
    setattr(site.wire, fault, False)
    await eventually(lambda: has(5), pause=0.01)
    site.pace.release()
    await following
    assert reading.events[-1].data == DONE
    assert [event.id for event in reading.events] == ["0-0", *(f"1-{n}" for n in range(1, len(PANGRAM) + 1)), "1-12", "1-12.1"]


async def test_a_stream_needs_no_doorbell(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody ever rings: each token is at most a look late."""

    async def deaf(_self: object, timeout: float) -> frozenset[str]:
        await asyncio.sleep(timeout)
        return frozenset()

    monkeypatch.setattr("headrace.queues.bell.Bell.wait", deaf)
    reading = Reading()
    following = asyncio.create_task(reading.follow(site.http))
    for tokens in (1, 2):
        site.pace.allow(1)

        async def here(wanted: int = 1 + tokens) -> bool:
            return len(reading.events) == wanted

        await eventually(here, pause=0.01)
    site.pace.release()
    await following
    assert reading.events[-1].data == DONE
