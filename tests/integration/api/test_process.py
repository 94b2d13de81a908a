"""`python -m producer_api` as it is run: its store and its model come late, it is told to stop, it is killed."""

import asyncio
import signal
import time
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import httpx
import psutil
import pytest

from headrace.client import stream_chat
from headrace.embedded import EmbeddedValkey
from headrace.queues.connect import connect
from headrace.settings import Settings
from headrace.testing.api_process import ApiProcess
from headrace.testing.eventually import eventually
from headrace.testing.proxy import Proxy, proxy_to
from headrace.testing.scripted_worker import PANGRAM, Pace, ScriptedWorker
from headrace.testing.store import Store
from headrace.testing.tiny_model import make_model

MODEL = "tiny"
BODY: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 20}


async def test_it_waits_for_its_store_and_its_model(tmp_path: Path) -> None:
    store = EmbeddedValkey(tmp_path / "store")
    api = ApiProcess(store.url, tmp_path / MODEL)
    try:
        async with api.run() as process, httpx.AsyncClient(base_url=api.url) as http:

            async def reasons() -> Any:
                try:
                    return (await http.get("/ready")).json().get("reasons")
                except httpx.TransportError:
                    return None

            assert len(await eventually(reasons, pause=0.05)) == 2
            refused = await http.post("/v1/jobs", json=BODY)
            assert (refused.status_code, int(refused.headers["retry-after"]) >= 1) == (503, True)
            await asyncio.to_thread(make_model, tmp_path / MODEL)
            await asyncio.to_thread(store.start)
            await api.ready(http)
            accepted = await http.post("/v1/jobs", json=BODY)
            assert accepted.status_code == 202
            process.terminate()
            assert await process.wait() == 0
        async with connect(Settings(redis_url=store.url)) as queue:
            assert (await queue.get("default", accepted.json()["id"])).request.prompt_ids == (0, 1)
    finally:
        await asyncio.to_thread(store.stop)


async def test_sigterm_cuts_open_streams_and_ends_in_time(tmp_path: Path, valkey: Store) -> None:
    make_model(tmp_path / MODEL)
    api = ApiProcess(valkey.url, tmp_path / MODEL)
    async with api.run(stderr=asyncio.subprocess.PIPE) as process, httpx.AsyncClient(base_url=api.url) as http:
        await api.ready(http)
        async with http.stream("POST", "/v1/chat/completions", json=BODY | {"stream": True}) as response:
            lines = response.aiter_lines()
            assert await anext(lines) == "id: 0-0"
            started = time.monotonic()
            process.send_signal(signal.SIGTERM)
            with pytest.raises(httpx.RemoteProtocolError):
                async for _ in lines:
                    pass
        _, log = await process.communicate()
        assert process.returncode == 0
        assert time.monotonic() - started < 10
    told = [line.rpartition(": stops: ")[2] for line in log.decode().splitlines() if ": stops: " in line]
    assert told == ["1 unfinished streams and waiting calls are cut"]


async def test_a_killed_api_costs_its_stream_no_token(tmp_path: Path, valkey: Store) -> None:
    make_model(tmp_path / MODEL)
    api, pace = ApiProcess(valkey.url, tmp_path / MODEL), Pace(free=False)
    texts: list[str] = []

    def read() -> None:
        with httpx.Client(base_url=api.url, timeout=20) as client:
            for chunk in stream_chat(client, BODY):
                texts.append(chunk["choices"][0]["delta"].get("content", ""))

    async with (
        httpx.AsyncClient(base_url=api.url) as http,
        connect(Settings(redis_url=valkey.url)) as queue,
        ScriptedWorker(queue, model=MODEL, pace=pace).run(),
    ):
        async with api.run() as process:
            await api.ready(http)
            reading = asyncio.create_task(asyncio.to_thread(read))
            pace.allow(4)
            await eventually(lambda: _length(texts, 5), pause=0.01)
            process.kill()
            await process.wait()
        pace.allow(3)  # the worker goes on meanwhile
        async with api.run():
            await eventually(lambda: _length(texts, 8), pause=0.01)
            pace.release()
            await reading
    assert texts == ["", *PANGRAM, ""]


@pytest.mark.parametrize(("fault", "stored"), [("silent", False), ("drop_replies", True)], ids=["before", "behind"])
async def test_a_killed_api_has_stored_a_request_once_or_not_at_all(tmp_path: Path, valkey: Store, fault: str, stored: bool) -> None:
    """It dies before its request has reached the store, or when the answer is on its way back: whoever repeats the call has one job."""
    await asyncio.to_thread(make_model, tmp_path / MODEL)
    key = {"idempotency-key": f"key-{fault}"}
    async with proxy_to(unquote(urlsplit(valkey.url).path)) as wire:
        api = ApiProcess(f"redis://127.0.0.1:{wire.port}/0", tmp_path / MODEL)
        async with httpx.AsyncClient(base_url=api.url, timeout=20) as http, connect(Settings(redis_url=valkey.url)) as queue:

            async def jobs() -> list[str]:
                return [job.request.id for job in await queue.list_jobs("default", after=None, limit=9) if job.ended_ms is None]

            async def sent() -> bool:
                return bool(await jobs()) if stored else asking.done() or wire.swallowed > before

            async with api.run() as process:
                await api.ready(http)
                before = wire.swallowed
                setattr(wire, fault, True)
                asking = asyncio.create_task(http.post("/v1/jobs", json=BODY, headers=key))
                await eventually(sent, pause=0.01)
                process.kill()
                await process.wait()
                with pytest.raises(httpx.TransportError):
                    await asking
            assert len(await jobs()) == stored
            setattr(wire, fault, False)
            async with api.run():
                await api.ready(http)
                again = await http.post("/v1/jobs", json=BODY, headers=key)
            assert (again.status_code, again.headers.get("idempotent-replayed")) == (202, "true" if stored else None)
            assert await jobs() == [again.json()["id"]]


async def test_what_a_shutdown_does_not_wait_for_is_told_to_come_back(tmp_path: Path, valkey: Store) -> None:
    """The store does not answer, so the call cannot either."""
    await asyncio.to_thread(make_model, tmp_path / MODEL)
    async with proxy_to(unquote(urlsplit(valkey.url).path)) as wire:
        api = ApiProcess(f"redis://127.0.0.1:{wire.port}/0", tmp_path / MODEL, HEADRACE_SHUTDOWN_S="1")
        async with httpx.AsyncClient(base_url=api.url, timeout=20) as http, api.run() as process:
            await api.ready(http)
            before = wire.swallowed
            wire.silent = True
            asking = [asyncio.create_task(http.post(path, json=BODY)) for path in ("/v1/jobs", "/v1/chat/completions")]
            await eventually(lambda: _swallowed(wire, before + len(asking)), pause=0.01)
            process.terminate()
            for answer in await asyncio.gather(*asking):
                assert (answer.status_code, answer.json()["error"]["code"]) == (503, "shutting_down")
                assert answer.headers["retry-after"] == "1"
            assert await process.wait() == 0


async def _swallowed(wire: Proxy, count: int) -> bool:
    return wire.swallowed >= count


async def _length(texts: list[str], wanted: int) -> bool:
    return len(texts) >= wanted


async def test_a_disk_that_fails_refuses_an_upload_and_keeps_nothing_of_it(tmp_path: Path, valkey: Store) -> None:
    """The limit on the size of a file stands for the disk's: both fail the write that goes beyond."""
    make_model(tmp_path / MODEL)
    api = ApiProcess(valkey.url, tmp_path / MODEL)
    async with api.run() as process, httpx.AsyncClient(base_url=api.url) as http:
        await api.ready(http)

        async def upload(size: int) -> httpx.Response:
            return await http.post("/v1/files", files={"file": ("in.jsonl", b"x" * size)}, data={"purpose": "batch"})

        limits = psutil.Process(process.pid).rlimit
        was = limits(psutil.RLIMIT_FSIZE)
        limits(psutil.RLIMIT_FSIZE, (4_096, was[1]))
        for size in (5_000, 3_000_000):
            refused = await upload(size)
            assert (refused.status_code, refused.json()["error"]["code"]) == (507, "insufficient_storage")
        assert (await upload(4_000)).status_code == 200
        limits(psutil.RLIMIT_FSIZE, was)
        scratch = tmp_path / "files" / "scratch"
        scratch.rename(tmp_path / "away")
        refused = await upload(4_000)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "storage_unavailable")
        (tmp_path / "away").rename(scratch)
        assert (await upload(3_000_000)).status_code == 200
        listed = (await http.get("/v1/files")).json()["data"]
        assert [file["bytes"] for file in listed] == [3_000_000, 4_000]
    files = tmp_path / "files"
    assert sorted(path.name for path in (files / "blobs").iterdir()) == sorted(file["id"] for file in listed)
    assert list((files / "scratch").iterdir()) == []
