"""What nobody foresaw: our own faults, and the end of the process."""

import asyncio
import json
import logging
import re
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from headrace.cursor import LogPosition
from headrace.job import Job, LogEntry
from headrace.settings import Settings
from headrace.testing.backend import Backend
from headrace.testing.bench import Queue
from headrace.testing.eventually import eventually
from headrace.testing.queue.memory import MemoryQueue
from headrace.testing.scripted_worker import Pace, Script, ScriptedWorker
from producer_api.server import Server

CHAT = "/v1/chat/completions"
BODY: dict[str, Any] = {"model": "test-model", "messages": [{"role": "user", "content": "hi"}]}


class FaultyQueue(MemoryQueue):
    async def list_jobs(self, tenant: str, *, after: str | None, limit: int) -> list[Job]:
        raise ZeroDivisionError("secret detail")

    async def read_logs(self, wants: Sequence[tuple[str, LogPosition]], limit: int) -> list[list[LogEntry]]:
        raise ZeroDivisionError("secret detail")


class TestFaults:
    @pytest.fixture
    def queue(self) -> Queue:
        return FaultyQueue()

    async def test_an_unforeseen_error_is_logged_and_told_without_detail(
        self, http: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
    ) -> None:
        response = await http.get("/v1/jobs", headers={"x-request-id": "find-me"})
        assert response.status_code == 500
        error = response.json()["error"]
        assert (error["code"], error["type"], error["param"]) == ("internal_error", "server_error", None)
        assert "secret" not in response.text
        assert response.headers["x-request-id"] == "find-me"
        assert "secret detail" in caplog.text
        assert "find-me" in caplog.text

    async def test_a_dead_reader_cuts_streams_and_ends_the_process(self, http: httpx.AsyncClient, server: Server) -> None:
        with pytest.raises(httpx.RemoteProtocolError):
            await http.post(CHAT, json=BODY | {"stream": True})

        async def stopped() -> bool:
            return server.failed

        await eventually(stopped, pause=0.01)


async def test_a_caller_who_leaves_in_mid_body_is_no_fault_of_ours(
    url: str, http: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    _, writer = await asyncio.open_connection(urlsplit(url).hostname, urlsplit(url).port)
    writer.write(b"POST /v1/jobs HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n\r\n{")
    await writer.drain()
    writer.close()

    async def counted() -> bool:
        return 'route="/v1/jobs",status="499"} 1.0' in (await http.get("/metrics")).text

    await eventually(counted, pause=0.01)
    assert "unhandled" not in caplog.text


@pytest.mark.usefixtures("slow_worker")
async def test_shutdown_cuts_streams_and_answers_waiting_calls(
    http: httpx.AsyncClient, server: Server, queue: Queue, pace: Pace, caplog: pytest.LogCaptureFixture
) -> None:
    async def stream() -> None:
        async with http.stream("POST", CHAT, json=BODY | {"stream": True}) as response:
            async for _ in response.aiter_lines():
                pass

    async def running() -> bool:
        return (await queue.load()).running == 2

    caplog.set_level(logging.INFO)
    streaming, waiting = asyncio.create_task(stream()), asyncio.create_task(http.post(CHAT, json=BODY))
    await eventually(running)
    pace.allow(2)
    started = time.monotonic()
    server.request_stop()
    with pytest.raises(httpx.RemoteProtocolError):
        await streaming
    answer = await waiting
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "shutting_down")
    assert answer.headers["retry-after"] == "1"
    assert time.monotonic() - started < 2
    assert "Traceback" not in caplog.text
    assert (await queue.load()).running == 2, "the jobs live on: their callers may come back"


async def test_a_process_that_is_told_to_stop_is_not_ready(http: httpx.AsyncClient, server: Server) -> None:
    server.services.stop()
    ready = await http.get("/ready")
    assert (ready.status_code, ready.json()["reasons"]) == (503, ["shutting down"])


class TestPings:
    @pytest.fixture
    def settings(self) -> Settings:
        return Settings(port=0, model="test-model", ping_s=0.02, shutdown_s=2)

    @pytest.mark.usefixtures("slow_worker")
    async def test_silence_is_filled_with_lines_that_dispatch_nothing(self, http: httpx.AsyncClient, pace: Pace) -> None:
        async with http.stream("POST", CHAT, json=BODY | {"stream": True}) as response:
            lines = response.aiter_lines()
            while await anext(lines):
                pass
            assert [await anext(lines) for _ in range(3)] == [": ping"] * 3
            pace.release()
            rest = [line async for line in lines]
        assert "data: [DONE]" in rest

    async def test_a_job_that_is_lost_with_its_store_does_not_ping_for_ever(
        self, http: httpx.AsyncClient, queue: Queue, backend: Backend
    ) -> None:
        async with http.stream("POST", CHAT, json=BODY | {"stream": True}) as response:
            lines = response.aiter_lines()
            await anext(lines)
            backend.lose_everything(queue)
            with pytest.raises(httpx.RemoteProtocolError):
                async for _ in lines:
                    pass


class TestStalledClient:
    """One that stops reading costs a cursor for as long as it is waited for, and nobody else anything."""

    PIECES = tuple(str(n) * 20_000 for n in range(500))

    @pytest.fixture
    async def flood(self, queue: Queue) -> AsyncIterator[None]:
        async with ScriptedWorker(queue, model="test-model", script=lambda _: Script(self.PIECES)).run():
            yield

    @pytest.mark.usefixtures("flood")
    async def test_it_is_cut_in_the_end_and_may_come_back(
        self, url: str, http: httpx.AsyncClient, queue: Queue, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr("producer_api.timed_stream.SEND_TIMEOUT_S", 0.3)
        body = json.dumps(BODY | {"stream": True, "max_tokens": 1_000}).encode()
        reader, writer = await asyncio.open_connection(urlsplit(url).hostname, urlsplit(url).port, limit=1_024)
        head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        await reader.readuntil(b"id: 0-0")
        quick = await http.post(CHAT, json=BODY | {"stream": True})
        assert quick.text.endswith("data: [DONE]\n\n")

        async def given_up() -> bool:
            return "headrace_open_streams 0.0" in (await http.get("/metrics")).text

        await eventually(given_up, pause=0.02)
        cut = await reader.read(-1)
        writer.close()
        assert b"[DONE]" not in cut
        assert "unhandled" not in caplog.text
        seen = re.findall(rb"id: (1-[0-9]+)\ndata: [^\n]*\n\n", cut)[-1].decode()
        stalled = (await queue.list_jobs("default", after=None, limit=2))[1].request.id
        rest = await http.get(f"/v1/jobs/{stalled}/events", params={"after": seen})
        assert rest.text.startswith(f"id: 1-{int(seen.removeprefix('1-')) + 1}\n")
        assert rest.text.endswith("data: [DONE]\n\n")
