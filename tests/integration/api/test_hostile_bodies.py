"""Bodies made to hurt, against a real process: each is answered, quickly, and the process stays as small as it was."""

import asyncio
import gzip
import json
import zlib
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from headrace.queues.connect import connect
from headrace.settings import Settings
from headrace.testing.api_process import ApiProcess
from headrace.testing.store import Store
from headrace.testing.tiny_model import make_model
from producer_api.body import LEFTOVER_BYTES

LIMIT = 1_048_576
CHAT, COMPLETIONS, JOBS = "/v1/chat/completions", "/v1/completions", "/v1/jobs"
JSON = {"content-type": "application/json"}
CEILING = 512 * 1_048_576
"""No body of a megabyte takes half a gigabyte, not even the worst: one that is all prompt, in the tokenizer."""
GROWTH = 16 * 1_048_576
"""What the allocator may keep from one round to the next."""


def body(**fields: Any) -> bytes:
    return json.dumps({"model": "tiny", "messages": [{"role": "user", "content": "hi"}]} | fields).encode()


def filled(before: bytes, unit: bytes, after: bytes) -> bytes:
    """As many units as fit the limit, with commas between them."""
    return before + b",".join([unit] * ((LIMIT - len(before) - len(after)) // (len(unit) + 1))) + after


def bodies() -> Iterator[tuple[str, str, bytes, dict[str, str], int]]:
    """Name, path, body, headers, status."""
    for name, content in not_json():
        yield name, CHAT, content, JSON, 400
    for name, path, content in not_wanted():
        yield name, path, content, JSON, 400
    yield "one word of a megabyte", JOBS, b'{"model": "tiny", "prompt": "' + b"x" * 1_000_000 + b'"}', JSON, 202
    yield "escapes", JOBS, b'{"model": "tiny", "prompt": "' + b"\\u0000" * 150_000 + b'"}', JSON, 202
    yield "CRLF and spaces", JOBS, b"\r\n\t " * 100_000 + body() + b"\r\n" * 100_000, JSON, 202
    yield "a gzip bomb", CHAT, gzip.compress(b" " * 200_000_000, 1), JSON | {"content-encoding": "gzip"}, 415
    yield "a deflate bomb", CHAT, zlib.compress(b" " * 50_000_000), JSON | {"content-encoding": "deflate"}, 415
    yield "three codings", CHAT, b"x" * 1_000, JSON | {"content-encoding": "gzip, br, zstd"}, 415
    yield "a form", CHAT, b"a=1&" * 100_000, {"content-type": "application/x-www-form-urlencoded"}, 415
    yield "one byte too many", JOBS, body() + b" " * LIMIT, JSON, 413
    yield "many times too many", JOBS, b" " * (LIMIT * 4 - 1), JSON, 413


def not_json() -> Iterator[tuple[str, bytes]]:
    yield "deep arrays", b"[" * LIMIT
    yield "deep objects", b'{"a":' * (LIMIT // 5)
    yield "a number of 10^4 digits", body()[:-1] + b', "seed": ' + b"9" * 10_000 + b"}"
    yield "a number of 10^6 digits", body()[:-1] + b', "seed": ' + b"9" * 1_000_000 + b"}"
    yield "a long exponent", body()[:-1] + b', "temperature": 1e' + b"9" * 10_000 + b"}"
    yield "a lone surrogate", body()[:-1] + b', "user": "\\ud800"}'
    yield "a byte-order mark", b"\xef\xbb\xbf" + body()
    yield "UTF-16", body().decode().encode("utf-16")
    yield "NUL", b"\0" * 1_000
    yield "nothing but spaces", b" " * LIMIT


def not_wanted() -> Iterator[tuple[str, str, bytes]]:
    messages = b'{"model": "tiny", "messages": ['
    nested = b', "prompt_cache_options": ' + b'{"a":' * 900 + b"1" + b"}" * 901
    private = body(messages=[{"role": "user", "content": "".join(map(chr, range(0xF0000, 0xFFFFE)))}])
    yield "deeper than it can be written", CHAT, body()[:-1] + nested
    yield "half a million messages that are none", CHAT, filled(messages, b"1", b"]}")
    yield "as many empty messages", CHAT, filled(messages, b"{}", b"]}")
    yield "as many as can be", CHAT, filled(messages, b'{"role":"user","content":""}', b"]}")
    yield "parts", CHAT, filled(messages + b'{"role":"user","content":[', b"{}", b"]}]}")
    yield "unknown fields", CHAT, body()[:-1] + b"".join(b',"%x":1' % i for i in range(90_000)) + b"}"
    yield "metadata", CHAT, body()[:-1] + b',"metadata":{' + b",".join(b'"%x":1' % i for i in range(90_000)) + b"}}"
    yield "the same field", CHAT, filled(b'{"model": "tiny", ', b'"n": 1', b"}")
    yield "token ids", COMPLETIONS, filled(b'{"model": "tiny", "prompt": [', b"1", b"]}")
    yield "nothing but prompt", COMPLETIONS, b'{"model": "tiny", "prompt": "' + b"x " * 500_000 + b'"}'
    yield "every private-use character", CHAT, private


@pytest.fixture
async def api(tmp_path: Path, valkey: Store) -> AsyncIterator[tuple[psutil.Process, httpx.AsyncClient]]:
    await asyncio.to_thread(make_model, tmp_path / "tiny")
    running = ApiProcess(valkey.url, tmp_path / "tiny", HEADRACE_MAX_BODY_BYTES=str(LIMIT))
    async with running.run() as process, httpx.AsyncClient(base_url=running.url, timeout=60) as http:
        await running.ready(http)
        yield psutil.Process(process.pid), http
        async with connect(Settings(redis_url=valkey.url)) as queue:
            for job in await queue.list_jobs("default", after=None, limit=100):
                await queue.cancel("default", job.request.id)


async def test_each_is_answered_and_none_is_kept(api: tuple[psutil.Process, httpx.AsyncClient]) -> None:
    process, http = api
    kept = []
    for _ in range(5):
        for name, path, content, headers, status in bodies():
            response = await http.post(path, content=content, headers=headers)
            assert response.status_code == status, (name, response.text)
            assert status == 202 or response.json()["error"].keys() == {"message", "type", "param", "code"}, name
            assert len(response.content) < 1_000, name
            assert process.memory_info().rss < CEILING, name
        kept.append(process.memory_info().rss)
    # Rounds fill the allocator's pools, each a little; what is kept for good grows with every one of them.
    assert min(later - earlier for earlier, later in pairwise(kept)) < GROWTH, kept


@pytest.mark.parametrize(("path", "headers"), [(JOBS, JSON), (JOBS, {}), ("/v1/nothing", JSON), ("/v1/jobs/x/cancel", JSON)])
async def test_a_body_without_an_end_is_cut_off(api: tuple[psutil.Process, httpx.AsyncClient], path: str, headers: dict[str, str]) -> None:
    process, http = api
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += 65_536
            yield b" " * 65_536

    before = process.memory_info().rss
    with suppress(httpx.WriteError, httpx.ReadError):  # or the answer comes first
        assert (await http.post(path, content=endless(), headers=headers)).is_client_error
    assert sent < 2 * LEFTOVER_BYTES
    assert process.memory_info().rss - before < GROWTH
    assert (await http.get("/health")).status_code == 200
