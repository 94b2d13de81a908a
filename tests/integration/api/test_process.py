"""`python -m producer_api` as it is run: its store and its model come late, it is told to stop, it is killed."""

import asyncio
import json
import os
import signal
import sys
import time
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from headrace.client import stream_chat
from headrace.embedded import EmbeddedValkey
from headrace.queues.connect import connect
from headrace.settings import Settings
from headrace.testing.eventually import eventually
from headrace.testing.scripted_worker import PANGRAM, Pace, ScriptedWorker
from headrace.testing.tree import free_port

MODEL = "tiny"
BODY: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 20}


def make_model(folder: Path) -> None:
    """The least that the API needs of a model: a tokenizer, its limits and a chat template."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"max_position_embeddings": 64, "vocab_size": 3}))
    (folder / "chat_template.jinja").write_text("{% for m in messages %}{{ m.role }} {{ m.content }} {% endfor %}")
    tokenizer = Tokenizer(WordLevel({"user": 0, "hi": 1, "?": 2}, unk_token="?"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))


class Api:
    """The process and where it listens; a killed one is started again on the same port."""

    def __init__(self, redis_url: str, model: Path) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self._env = os.environ | {
            "HEADRACE_REDIS_URL": redis_url,
            "HEADRACE_MODEL": str(model),
            "HEADRACE_FILES_DIR": str(model.with_name("files")),
            "HEADRACE_PORT": str(port),
            "HEADRACE_SHUTDOWN_S": "2",
        }

    @asynccontextmanager
    async def run(self) -> AsyncIterator[Process]:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "producer_api", env=self._env, stderr=asyncio.subprocess.DEVNULL
        )
        try:
            yield process
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()

    async def ready(self, http: httpx.AsyncClient) -> None:
        async def look() -> bool:
            try:
                return (await http.get("/ready")).status_code == 200
            except httpx.TransportError:
                return False

        await eventually(look, pause=0.05)


@pytest.fixture
async def clean_valkey(valkey: EmbeddedValkey) -> AsyncIterator[EmbeddedValkey]:
    async with connect(Settings(redis_url=valkey.url)) as queue:
        yield valkey
        for job in await queue.list_jobs("default", after=None, limit=100):
            await queue.cancel("default", job.request.id)


async def test_it_waits_for_its_store_and_its_model(tmp_path: Path) -> None:
    store = EmbeddedValkey(tmp_path / "store")
    api = Api(store.url, tmp_path / MODEL)
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


async def test_sigterm_cuts_open_streams_and_ends_in_time(tmp_path: Path, clean_valkey: EmbeddedValkey) -> None:
    make_model(tmp_path / MODEL)
    api = Api(clean_valkey.url, tmp_path / MODEL)
    async with api.run() as process, httpx.AsyncClient(base_url=api.url) as http:
        await api.ready(http)
        async with http.stream("POST", "/v1/chat/completions", json=BODY | {"stream": True}) as response:
            lines = response.aiter_lines()
            assert await anext(lines) == "id: 0-0"
            started = time.monotonic()
            process.send_signal(signal.SIGTERM)
            with pytest.raises(httpx.RemoteProtocolError):
                async for _ in lines:
                    pass
        assert await process.wait() == 0
        assert time.monotonic() - started < 10


async def test_a_killed_api_costs_its_stream_no_token(tmp_path: Path, clean_valkey: EmbeddedValkey) -> None:
    make_model(tmp_path / MODEL)
    api, pace = Api(clean_valkey.url, tmp_path / MODEL), Pace(free=False)
    texts: list[str] = []

    def read() -> None:
        with httpx.Client(base_url=api.url, timeout=20) as client:
            for chunk in stream_chat(client, BODY):
                texts.append(chunk["choices"][0]["delta"].get("content", ""))

    async with (
        httpx.AsyncClient(base_url=api.url) as http,
        connect(Settings(redis_url=clean_valkey.url)) as queue,
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


async def _length(texts: list[str], wanted: int) -> bool:
    return len(texts) >= wanted
