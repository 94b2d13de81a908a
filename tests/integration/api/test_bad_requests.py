"""Every bad request gets one clear error in the envelope, and leaves nothing behind."""

import asyncio
import json
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from headrace.testing.bench import Queue

MODEL = "test-model"
CHAT, COMPLETIONS, JOBS = "/v1/chat/completions", "/v1/completions", "/v1/jobs"
HI = [{"role": "user", "content": "hi"}]


def chat(**fields: Any) -> bytes:
    return json.dumps({"model": MODEL, "messages": HI} | fields).encode()


def completion(**fields: Any) -> bytes:
    return json.dumps({"model": MODEL, "prompt": "hi"} | fields).encode()


BAD = [
    # body, path → status, code, param
    (b"", CHAT, 400, "invalid_json", None),
    (b"null", CHAT, 400, "invalid_json", None),
    (b"[]", JOBS, 400, "invalid_json", None),
    (b'{"model":', CHAT, 400, "invalid_json", None),
    (b"\xef\xbb\xbf{}", CHAT, 400, "invalid_json", None),
    (b'{"model": "\xff\xfe"}', CHAT, 400, "invalid_json", None),
    (b"[" * 60_000, CHAT, 400, "invalid_json", None),
    (chat()[:-1] + b', "temperature": NaN}', CHAT, 400, "invalid_json", None),
    (chat()[:-1] + b', "temperature": 1e999}', CHAT, 400, "invalid_json", None),
    (chat()[:-1] + b', "seed": ' + b"9" * 5_000 + b"}", CHAT, 400, "invalid_json", None),
    (chat()[:-1] + b', "seed": 18446744073709551616}', CHAT, 400, "invalid_value", "seed"),
    (b'{"model": "\\ud800", "prompt": "hi"}', COMPLETIONS, 400, "invalid_json", None),
    (b"{}", CHAT, 400, "missing_required_parameter", "model"),
    (b'{"model": "test-model"}', CHAT, 400, "missing_required_parameter", "messages"),
    (chat(messages=[]), CHAT, 400, "invalid_value", "messages"),
    (chat(messages=[{"role": "user", "content": None}]), CHAT, 400, "invalid_type", "messages[0].content"),
    (chat(messages=[{"role": "tool", "content": "x"}]), CHAT, 400, "unsupported_parameter", "messages[0].role"),
    (chat(model="gpt-5"), CHAT, 404, "model_not_found", "model"),
    (chat(model=""), CHAT, 400, "invalid_value", "model"),
    (chat(temperature=2.5), CHAT, 400, "invalid_value", "temperature"),
    (chat(temperature="1"), CHAT, 400, "invalid_type", "temperature"),
    (chat(top_p=0), CHAT, 400, "invalid_value", "top_p"),
    (chat(max_tokens=True), CHAT, 400, "invalid_type", "max_tokens"),
    (chat(max_tokens=0), CHAT, 400, "invalid_value", "max_tokens"),
    (chat(max_tokens=1, max_completion_tokens=2), CHAT, 400, "invalid_value", "max_tokens"),
    (chat(max_tokens=1_000_000), CHAT, 400, "context_length_exceeded", "max_tokens"),
    (chat(n=17), CHAT, 400, "invalid_value", "n"),
    (chat(n=True), CHAT, 400, "invalid_type", "n"),
    (chat(top_logprobs=2), CHAT, 400, "invalid_value", "top_logprobs"),
    (chat(logit_bias={"1000": 1}), CHAT, 400, "invalid_value", "logit_bias"),
    (chat(stop_token_ids=[-1]), CHAT, 400, "invalid_value", "stop_token_ids"),
    (chat(min_tokens=5, max_tokens=4), CHAT, 400, "invalid_value", "min_tokens"),
    (chat(min_tokens=5_000), CHAT, 400, "invalid_value", "min_tokens"),
    (chat(tools=[{"type": "function"}]), CHAT, 400, "unsupported_parameter", "tools"),
    (chat(stop=["a"] * 5), CHAT, 400, "invalid_value", "stop"),
    (chat(stream_options={"include_usage": True}), CHAT, 400, "invalid_value", "stream_options"),
    (chat(wibble=1), CHAT, 400, "unknown_parameter", "wibble"),
    (completion(prompt=""), COMPLETIONS, 400, "invalid_value", "prompt"),
    (completion(prompt=["a", "b"]), COMPLETIONS, 400, "unsupported_parameter", "prompt"),
    (completion(prompt=[1, 1_000]), COMPLETIONS, 400, "invalid_value", "prompt"),
    (completion(prompt="word " * 5_000), COMPLETIONS, 400, "context_length_exceeded", "prompt"),
    (completion(best_of=3), COMPLETIONS, 400, "unsupported_parameter", "best_of"),
    (chat()[:-1] + b', "prompt_cache_options": ' + b'{"a":' * 500 + b"1" + b"}" * 500 + b"}", CHAT, 400, "invalid_json", None),
    (completion(messages=HI), JOBS, 400, "invalid_value", "messages"),
    (chat() + b" " * 65_536, CHAT, 413, "body_too_large", None),
]


@pytest.mark.parametrize(("body", "path", "status", "code", "param"), BAD)
async def test_bad_bodies(http: httpx.AsyncClient, queue: Queue, body: bytes, path: str, status: int, code: str, param: str | None) -> None:
    response = await http.post(path, content=body, headers={"content-type": "application/json"})
    await refused(response, queue, status, code, param)


@pytest.mark.parametrize(
    ("headers", "status", "code", "param"),
    [
        ({"content-type": "text/plain"}, 415, "unsupported_media_type", None),
        ({"content-type": "application/x-www-form-urlencoded"}, 415, "unsupported_media_type", None),
        ({"content-encoding": "gzip"}, 415, "unsupported_media_type", None),
        ({"idempotency-key": "with space"}, 400, "invalid_value", "Idempotency-Key"),
        ({"idempotency-key": "x" * 256}, 400, "invalid_value", "Idempotency-Key"),
        ({"x-request-timeout": "0"}, 400, "invalid_value", "X-Request-Timeout"),
        ({"x-request-timeout": "3601"}, 400, "invalid_value", "X-Request-Timeout"),
        ({"x-request-timeout": "soon"}, 400, "invalid_value", "X-Request-Timeout"),
    ],
)
async def test_bad_headers(
    http: httpx.AsyncClient, queue: Queue, headers: dict[str, str], status: int, code: str, param: str | None
) -> None:
    response = await http.post(JOBS, content=chat(), headers={"content-type": "application/json"} | headers)
    await refused(response, queue, status, code, param)


async def refused(response: httpx.Response, queue: Queue, status: int, code: str, param: str | None) -> None:
    assert response.status_code == status, response.text
    assert response.json().keys() == {"error"}
    error = response.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert (error["code"], error["param"], error["type"]) == (code, param, "invalid_request_error")
    assert 10 < len(error["message"]) < 300
    assert response.headers["x-request-id"]
    assert await queue.list_jobs("default", after=None, limit=1) == []


@pytest.mark.parametrize(
    ("method", "path", "status", "code", "param"),
    [
        ("GET", "/nope", 404, "not_found", None),
        ("GET", CHAT, 405, "method_not_allowed", None),
        ("DELETE", JOBS, 405, "method_not_allowed", None),
        ("GET", "/v1/models/other", 404, "model_not_found", "model"),
        ("GET", "/v1/jobs/nonsense", 404, "job_not_found", "job_id"),
        ("GET", f"/v1/jobs/{'0' * 31}", 404, "job_not_found", None),
        ("GET", f"/v1/jobs/ff{'0' * 29}", 404, "job_not_found", None),
        ("GET", f"/v1/jobs/{'0' * 31}/events", 404, "job_not_found", None),
        ("POST", f"/v1/jobs/{'0' * 31}/cancel", 404, "job_not_found", None),
        ("GET", "/v1/jobs?limit=0", 400, "invalid_value", "limit"),
        ("GET", "/v1/jobs?limit=101", 400, "invalid_value", "limit"),
        ("GET", "/v1/jobs?limit=x", 400, "invalid_value", "limit"),
        ("GET", "/v1/jobs?after=x", 404, "job_not_found", "job_id"),
        ("GET", f"/v1/jobs?after={'0' * 31}", 404, "job_not_found", None),
    ],
)
async def test_bad_urls(http: httpx.AsyncClient, queue: Queue, method: str, path: str, status: int, code: str, param: str) -> None:
    await refused(await http.request(method, path), queue, status, code, param)


async def test_405_says_what_is_allowed(http: httpx.AsyncClient) -> None:
    assert (await http.get(CHAT)).headers["allow"] == "POST"


async def exchange(url: str, *pieces: bytes) -> bytes:
    """Send raw bytes and read until the server closes."""
    reader, writer = await asyncio.open_connection(urlsplit(url).hostname, urlsplit(url).port)
    try:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        return await reader.read()
    finally:
        writer.close()


async def test_a_body_that_grows_too_large_is_refused_without_a_content_length(url: str) -> None:
    head = b"POST /v1/jobs HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
    chunk = b"10000\r\n" + b" " * 65_536 + b"\r\n"
    answer = await exchange(url, head, chunk, b"1\r\nx\r\n0\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 413")
    assert b"limit of 65536 bytes" in answer


async def test_a_hopelessly_large_body_is_refused_by_its_length_alone(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("producer_api.body.LEFTOVER_S", 0.1)
    answer = await exchange(
        url, b"POST /v1/jobs HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 99999999999\r\n\r\n{"
    )
    assert answer.startswith(b"HTTP/1.1 413")


@pytest.mark.parametrize(
    ("given", "kept"), [("abc-123", True), ("a" * 128, True), ("a" * 129, False), ("sp ace", False), ("é".encode(), False)]
)
async def test_request_ids_are_kept_if_valid(http: httpx.AsyncClient, given: str | bytes, kept: bool) -> None:
    response = await http.get("/nope", headers=[(b"x-request-id", given if isinstance(given, bytes) else given.encode())])
    answered = response.headers["x-request-id"]
    assert (answered == given) is kept
    assert kept or answered.startswith("req_")
