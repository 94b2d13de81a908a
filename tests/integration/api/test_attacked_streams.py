"""Streams over bad wires: whatever happens to a connection, whoever comes back with his cursor gets exactly the rest, from any replica."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from headrace.client import DONE, Event, follow_job, lines_of, parse_events, stream_chat
from headrace.queues.rules import QueueLimits
from headrace.settings import Settings
from headrace.testing.backend import Backend, ended
from headrace.testing.bench import Queue
from headrace.testing.builders import ManualClock
from headrace.testing.eventually import eventually
from headrace.testing.listening import listening
from headrace.testing.proxy import Proxy, proxy_to
from headrace.testing.scale import FULL_SIZE
from headrace.testing.scripted_worker import PANGRAM, Pace, Script, ScriptedWorker
from headrace.testing.words import WordPrompter
from producer_api.app import create_app
from producer_api.archive import Archive
from producer_api.catalog import Catalog
from producer_api.server import Server

MODEL = "test-model"
CHAT = "/v1/chat/completions"
BODY: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}
SENTENCE = "".join(PANGRAM)
#: Characters that some take for ends of lines, and some that are several bytes long.
ODD = ('né\u2028"', "\x85😀\r\n")


@pytest.fixture
async def proxy(url: str) -> AsyncIterator[Proxy]:
    async with proxy_to(url) as proxy:
        yield proxy


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headrace.client._RETRY_S", 0.001)


def text_of(chunks: Iterable[dict[str, Any]]) -> str:
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    return "".join(choice["delta"].get("content") or "" if "delta" in choice else choice["text"] for choice in choices)


async def read(url: str, follow: Callable[[httpx.Client], Iterable[dict[str, Any]]], *, patience_s: float = 20.0) -> str:
    """What the project's client reads there; each of its calls is a connection of its own."""

    def run() -> str:
        with httpx.Client(base_url=url, timeout=patience_s, limits=httpx.Limits(max_keepalive_connections=0)) as client:
            return text_of(follow(client))

    return await asyncio.to_thread(run)


async def submit(http: httpx.AsyncClient) -> str:
    job_id: str = (await http.post("/v1/jobs", json=BODY)).json()["id"]
    return job_id


@asynccontextmanager
async def working(queue: Queue, pieces: tuple[str, ...]) -> AsyncIterator[None]:
    async with ScriptedWorker(queue, model=MODEL, script=lambda _: Script((*pieces, ""))).run():
        yield


class TestCuts:
    @pytest.fixture(autouse=True)
    async def worker(self, queue: Queue) -> AsyncIterator[None]:
        async with working(queue, ODD):
            yield

    @pytest.mark.parametrize(("reset", "step"), [(False, 1), (True, 1 if FULL_SIZE else 7)], ids=["ended", "reset"])
    async def test_behind_every_byte_of_a_stream(self, http: httpx.AsyncClient, proxy: Proxy, reset: bool, step: int) -> None:
        """From the first byte of the headers to the last one of [DONE], until one connection brings it all."""
        job_id: str = (await http.post("/v1/jobs", json={"model": MODEL, "prompt": "hi"})).json()["id"]
        proxy.reset = reset

        def cut_everywhere() -> int:
            with httpx.Client(base_url=proxy.url, timeout=20, limits=httpx.Limits(max_keepalive_connections=0)) as client:
                for place in range(1, 10_000, step):
                    before = proxy.accepted
                    proxy.cut_after.append(place)
                    assert text_of(follow_job(client, job_id)) == "".join(ODD), place
                    if proxy.accepted == before + 1:
                        return place
            raise AssertionError("the stream has no end")

        whole = await asyncio.to_thread(cut_everywhere)
        assert len((await http.get(f"/v1/jobs/{job_id}/events")).content) <= whole

    async def test_behind_many_a_byte_of_an_answer(self, queue: Queue, proxy: Proxy) -> None:
        places = range(1, 1_000, 31)
        for place in places:
            proxy.cut_after.append(place)
            assert await read(proxy.url, lambda client: stream_chat(client, BODY)) == "".join(ODD)
        assert proxy.accepted == 2 * len(places)
        assert await ended(queue) == len(places), "a call that was cut made no second job"

    async def test_every_connection_again_and_again(self, http: httpx.AsyncClient, proxy: Proxy) -> None:
        job_id = await submit(http)
        # Long enough for the headers and an event or two: shorter ones never get on.
        proxy.cut_after += [700] * 50
        assert await read(proxy.url, lambda client: follow_job(client, job_id)) == "".join(ODD)
        assert 3 <= proxy.accepted < 20


@pytest.mark.usefixtures("worker")
class TestWires:
    async def test_a_late_one(self, proxy: Proxy) -> None:
        proxy.delay_s = 0.05
        assert await read(proxy.url, lambda client: stream_chat(client, BODY)) == SENTENCE

    async def test_a_slow_one(self, proxy: Proxy) -> None:
        proxy.throttle = 5_000
        assert await read(proxy.url, lambda client: stream_chat(client, BODY)) == SENTENCE

    async def test_one_that_loses_replies(self, proxy: Proxy, queue: Queue) -> None:
        proxy.drop_replies = True
        reading = asyncio.create_task(read(proxy.url, lambda client: stream_chat(client, BODY)))
        await eventually(lambda: _true(proxy.dropped >= 3))
        proxy.drop_replies = False
        assert await reading == SENTENCE
        assert await ended(queue) == 1

    async def test_one_that_is_dead_and_does_not_say_so(self, proxy: Proxy, queue: Queue) -> None:
        proxy.silent = True
        reading = asyncio.create_task(read(proxy.url, lambda client: stream_chat(client, BODY), patience_s=0.2))
        await eventually(lambda: _true(proxy.accepted >= 3))
        proxy.silent = False
        assert await reading == SENTENCE
        assert await ended(queue) == 1


async def _true(value: bool) -> bool:
    return value


async def events(http: httpx.AsyncClient, job_id: str, **headers: str) -> list[Event]:
    response = await http.get(f"/v1/jobs/{job_id}/events", headers=headers)
    assert response.status_code == 200, response.text
    return list(parse_events(lines_of([response.content])))


@pytest.mark.usefixtures("slow_worker")
async def test_two_clients_of_one_stream_see_it_each_from_his_place(http: httpx.AsyncClient, url: str, pace: Pace) -> None:
    job_id = await submit(http)
    pace.allow(5)

    async def five() -> bool:
        return bool((await http.get(f"/v1/jobs/{job_id}")).json()["usage"]["completion_tokens"] == 5)

    await eventually(five)
    from_start = asyncio.create_task(read(url, lambda client: follow_job(client, job_id)))
    behind = [asyncio.create_task(events(http, job_id, **{"last-event-id": f"1-{place}"})) for place in (2, 5)]

    async def all_open() -> bool:
        return "headrace_open_streams 3.0" in (await http.get("/metrics")).text

    await eventually(all_open)
    pace.release()
    assert await from_start == SENTENCE
    whole = await events(http, job_id)
    assert [await one for one in behind] == [whole[3:], whole[6:]]


@asynccontextmanager
async def replica(queue: Queue, archive: Archive, settings: Settings) -> AsyncIterator[Server]:
    catalog = Catalog({MODEL: WordPrompter})
    await catalog.load()
    yield Server(create_app(queue, archive, catalog, settings), settings)


@pytest.mark.usefixtures("slow_worker")
async def test_a_stream_goes_on_at_another_replica(
    proxy: Proxy, server: Server, queue: Queue, archive: Archive, settings: Settings, pace: Pace
) -> None:
    """The first one is stopped in the middle of it; the client knows one address, behind which the other one is."""
    texts: list[str] = []

    def follow(client: httpx.Client) -> Iterable[dict[str, Any]]:
        for chunk in stream_chat(client, BODY):
            texts.append(text_of([chunk]))
            yield chunk

    async with replica(queue, archive, settings) as other, listening(other) as other_url:
        reading = asyncio.create_task(read(proxy.url, follow))
        pace.allow(4)
        await eventually(lambda: _true(len(texts) == 5))
        proxy.upstream = other_url
        server.request_stop()
        pace.allow(3)  # they are committed whether anybody reads or not
        await eventually(lambda: _true(len(texts) == 8))
        pace.release()
        assert await reading == SENTENCE
    assert texts == ["", *PANGRAM, ""]


class TestCursors:
    @pytest.fixture
    async def queue(self, backend: Backend, clock: ManualClock) -> AsyncIterator[Queue]:
        async with backend.open(clock=clock, limits=QueueLimits(retention_ms=1_000)) as queue:
            yield queue

    async def test_each_wrong_one_has_its_answer(self, http: httpx.AsyncClient, queue: Queue, clock: ManualClock) -> None:
        async with working(queue, PANGRAM):
            job_id = await submit(http)
            await eventually(lambda: ended(queue))

        async def answer(cursor: str, job: str = job_id) -> tuple[int, int, str]:
            by_header = await http.get(f"/v1/jobs/{job}/events", headers={"last-event-id": cursor})
            by_query = await http.get(f"/v1/jobs/{job}/events", params={"after": cursor})
            return by_header.status_code, by_query.status_code, by_query.json()["error"]["code"]

        assert await answer("1_3") == (400, 400, "invalid_cursor")
        assert await answer("7-3") == (400, 400, "invalid_cursor")
        assert await answer("1-3", "00" + "f" * 29) == (404, 404, "job_not_found")
        clock.advance(1_000)
        await queue.purge(10)
        assert await answer("1-3") == (410, 410, "job_purged")


class TestSlowReaders:
    """Each holds what its connection buffers and one batch of its log; none holds up the others."""

    COUNT, TOKENS = 10, 8_000
    PIECE = "x" * 1_000
    #: uvicorn stops taking from us at 64 KiB. What is on its way then is one frame: a batch of entries.
    CAP = 65_536 + 256 * (1_000 + 400)

    async def test_they_are_closed_and_may_come_back(
        self, url: str, http: httpx.AsyncClient, server: Server, queue: Queue, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("producer_api.timed_stream.SEND_TIMEOUT_S", 1.0)
        async with working(queue, (self.PIECE,) * self.TOKENS):
            job_id = await submit(http)
            await eventually(lambda: ended(queue), within=60)
        readers = [await self.open_stalled(url, job_id) for _ in range(self.COUNT)]
        held: list[int] = []

        async def all_given_up() -> bool:
            held.extend(connection.transport.get_write_buffer_size() for connection in server.server_state.connections)
            return "headrace_open_streams 0.0" in (await http.get("/metrics")).text

        await eventually(all_given_up, pause=0.02)
        assert 0 < max(held) <= self.CAP
        for reader, writer in readers:
            seen = await self.drain(reader)
            writer.close()
            assert 0 < len(seen) < self.TOKENS
            rest = await events(http, job_id, **{"last-event-id": seen[-1].id})
            assert rest[0].id == f"1-{len(seen)}"
            assert (len(seen) + len(rest), rest[-1].data) == (self.TOKENS + 3, DONE)

    async def open_stalled(self, url: str, job_id: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """It asks, and reads nothing more than its buffers take by themselves."""
        where = urlsplit(url)
        raw = socket.socket()
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16_384)
        raw.setblocking(False)
        await asyncio.get_running_loop().sock_connect(raw, (where.hostname, where.port))
        reader, writer = await asyncio.open_connection(sock=raw, limit=1_024)
        writer.write(f"GET /v1/jobs/{job_id}/events HTTP/1.1\r\nhost: x\r\n\r\n".encode())
        await writer.drain()
        return reader, writer

    async def drain(self, reader: asyncio.StreamReader) -> list[Event]:
        """Whole events that reached it before it was cut; chunk sizes of the transfer stand between them and are no event's lines."""
        taken = b""
        try:
            while piece := await reader.read(65_536):
                taken += piece
        except ConnectionError:
            pass
        found = [event for event in parse_events(lines_of([taken])) if event.data.endswith("}") or event.data == DONE]
        assert all(json.loads(event.data)["id"] for event in found)
        return found
