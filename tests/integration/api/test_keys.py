"""With keys on: nothing is answered without one but what watches the process, and nobody's ids exist for anybody else."""

import asyncio
import logging
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from fastapi import FastAPI
from starlette.routing import BaseRoute

from headrace.client import parse_events
from headrace.keys import key_line
from headrace.settings import Settings
from headrace.state import State
from headrace.testing.bench import Queue
from headrace.testing.eventually import eventually
from headrace.testing.scripted_worker import Pace
from producer_api.auth import OPEN_PATHS
from producer_api.server import Server

MODEL = "test-model"
CHAT = "/v1/chat/completions"
BODY: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}
ALICE, BOB = {"authorization": "Bearer hr_alice"}, {"authorization": "Bearer hr_bob"}
NOBODYS = "00" + "f" * 29

pytestmark = pytest.mark.usefixtures("keys_file")


@pytest.fixture
def keys_file(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    path.write_text(f"{key_line('hr_alice', 'alice')}\n{key_line('hr_bob', 'bob')}\n")
    return path


@pytest.fixture
def settings(keys_file: Path, files_dir: Path) -> Settings:
    return Settings(port=0, model=MODEL, shutdown_s=2, keys_file=keys_file, files_dir=files_dir)


def walk(routes: Sequence[BaseRoute]) -> Iterator[tuple[str, str]]:
    """Every (method, path) that the app knows, those of included routers too."""
    for route in routes:
        included = getattr(route, "original_router", None)
        if included is not None:
            yield from walk(included.routes)
        else:
            known: Any = route  # of several classes, which have these two in common
            path = re.sub(r"\{(\w+):\w+\}", r"{\1}", known.path)
            yield from ((method, path) for method in known.methods)


def listed(app: FastAPI) -> list[tuple[str, str]]:
    routes = sorted(set(walk(app.routes)))
    assert set(app.openapi()["paths"]) <= {path for _, path in routes}
    assert len(routes) >= 15
    return routes


@pytest.fixture
def routes(server: Server) -> list[tuple[str, str]]:
    app = server.config.app
    assert isinstance(app, FastAPI)
    return listed(app)


def test_three_paths_are_open() -> None:
    assert sorted(OPEN_PATHS) == ["/health", "/metrics", "/ready"]


async def test_nothing_else_answers_without_a_key(http: httpx.AsyncClient, routes: list[tuple[str, str]]) -> None:
    paths = [("GET", "/"), ("GET", "/v1/nothing"), ("POST", "/health/"), ("GET", "//health"), ("OPTIONS", CHAT), ("GET", "/metrics/x")]
    for method, path in routes + paths:
        response = await http.request(method, re.sub(r"\{.*?\}", NOBODYS, path))
        if path in OPEN_PATHS:
            assert response.status_code == 200
        else:
            assert response.status_code == 401, (method, path)
            assert response.headers["www-authenticate"] == "Bearer"
            assert response.headers["x-request-id"]
            if method != "HEAD":
                error = response.json()["error"]
                assert (error["code"], error["type"], error["param"]) == ("invalid_api_key", "invalid_request_error", None)
    for path in ("/docs", "/openapi.json"):
        assert (await http.get(path, headers=ALICE)).status_code == 200


@pytest.mark.parametrize(
    ("header", "said"),
    [
        (None, "No API key was given"),
        ("", "must be 'Bearer <key>'"),
        ("Bearer", "must be 'Bearer <key>'"),
        ("hr_alice", "must be 'Bearer <key>'"),
        ("Basic aHJfYWxpY2U6", "must be 'Bearer <key>'"),
        ("Bearer hr_alice hr_alice", "must be 'Bearer <key>'"),
        ("Bearer hr_ålice".encode(), "must be 'Bearer <key>'"),
        ("Bearer " + "x" * 5_000, "must be 'Bearer <key>'"),
        ("Bearer hr_alicE", "not known"),
        ("Bearer hr_alice2", "not known"),
        ("Bearer " + key_line("hr_alice", "alice").split()[0], "not known"),
    ],
)
async def test_keys_that_are_none(http: httpx.AsyncClient, queue: Queue, header: str | bytes | None, said: str) -> None:
    headers: dict[str, Any] = {} if header is None else {"authorization": header}
    for response in (await http.get("/v1/models", headers=headers), await http.post("/v1/jobs", json=BODY, headers=headers)):
        assert response.status_code == 401
        message = response.json()["error"]["message"]
        assert said in message
        assert "alic" not in message
    assert (await queue.load()).cost == 0


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER "])
async def test_the_scheme_has_no_case(http: httpx.AsyncClient, scheme: str) -> None:
    assert (await http.get("/v1/models", headers={"authorization": f"{scheme} hr_alice"})).status_code == 200


async def test_a_key_speaks_for_its_tenant(http: httpx.AsyncClient, queue: Queue) -> None:
    job_id = (await http.post("/v1/jobs", json=BODY, headers=ALICE)).json()["id"]
    assert (await queue.get("alice", job_id)).state is State.QUEUED
    assert [job["id"] for job in (await http.get("/v1/jobs", headers=ALICE)).json()["data"]] == [job_id]
    assert (await http.get("/v1/jobs", headers=BOB)).json()["data"] == []


async def test_an_idempotency_key_is_the_tenants_own(http: httpx.AsyncClient) -> None:
    mine, yours = [
        await http.post("/v1/jobs", json=BODY | {"user": who["authorization"]}, headers=who | {"idempotency-key": "k"})
        for who in (ALICE, BOB)
    ]
    assert (mine.status_code, yours.status_code) == (202, 202)
    assert mine.json()["id"] != yours.json()["id"]


#: An id of each kind that nobody has. A path parameter of a new kind belongs here, and an object to try it on into `belongings`.
NOBODYS_IDS = {"job_id": NOBODYS, "file_id": f"file-{'0' * 32}", "batch_id": f"batch_{'0' * 32}"}
PUBLIC = {"name"}
BATCH: dict[str, Any] = {"endpoint": "/v1/chat/completions", "completion_window": "24h"}


async def belongings(http: httpx.AsyncClient, who: dict[str, str]) -> dict[str, str]:
    """One object of each kind, by the parameter that names it."""
    job = await http.post("/v1/jobs", json=BODY, headers=who)
    file = await http.post("/v1/files", data={"purpose": "batch"}, files={"file": ("in.jsonl", b"{}\n")}, headers=who)
    batch = await http.post("/v1/batches", json=BATCH | {"input_file_id": file.json()["id"]}, headers=who)
    return {"job_id": job.json()["id"], "file_id": file.json()["id"], "batch_id": batch.json()["id"]}


#: What takes an id elsewhere than in its path: method, path, body.
BESIDES: list[tuple[str, str, dict[str, Any] | None]] = [
    ("GET", "/v1/jobs/chatcmpl-{job_id}", None),
    ("GET", "/v1/jobs?after={job_id}", None),
    ("GET", "/v1/jobs/{job_id}/events?after=1-1", None),
    ("GET", "/v1/files?after={file_id}", None),
    ("GET", "/v1/batches?after={batch_id}", None),
    ("POST", "/v1/batches", BATCH | {"input_file_id": "{file_id}"}),
]


@pytest.mark.usefixtures("slow_worker")
@pytest.mark.parametrize("ended", [False, True])
async def test_another_tenants_ids_do_not_exist(
    http: httpx.AsyncClient, queue: Queue, routes: list[tuple[str, str]], pace: Pace, ended: bool
) -> None:
    alices = await belongings(http, ALICE)
    if ended:
        pace.release()

    async def there() -> bool:
        return (await queue.get("alice", alices["job_id"])).state is (State.DONE if ended else State.RUNNING)

    await eventually(there)
    assert {name for _, path in routes for name in re.findall(r"\{(\w+)", path)} == NOBODYS_IDS.keys() | PUBLIC
    tries = BESIDES + [(method, path, None) for method, path in routes if set(re.findall(r"\{(\w+)", path)) & NOBODYS_IDS.keys()]
    assert len(tries) >= 14
    for method, path, body in tries:

        async def ask(ids: dict[str, str], method: str = method, path: str = path, body: dict[str, Any] | None = body) -> httpx.Response:
            filled = None if body is None else body | {"input_file_id": ids["file_id"]}
            return await http.request(method, path.format(**ids), json=filled, headers=BOB)

        foreign, unknown = await ask(alices), await ask(NOBODYS_IDS)
        assert foreign.status_code == unknown.status_code == 404, (method, path)
        said = foreign.text
        for name, nobodys in NOBODYS_IDS.items():
            said = said.replace(alices[name], nobodys)
        assert said == unknown.text, "an answer that differs tells that it exists"
    for path in ("/v1/jobs/{job_id}", "/v1/files/{file_id}", "/v1/files/{file_id}/content", "/v1/batches/{batch_id}"):
        assert (await http.get(path.format(**alices), headers=ALICE)).status_code == 200
    for path in ("/v1/jobs", "/v1/files", "/v1/batches"):
        assert (await http.get(path, headers=BOB)).json()["data"] == []
    assert not (await queue.get("alice", alices["job_id"])).cancel_requested
    assert (await http.get("/v1/batches/{batch_id}".format(**alices), headers=ALICE)).json()["cancelling_at"] is None


@pytest.mark.usefixtures("worker")
async def test_a_stream_is_its_owners(http: httpx.AsyncClient) -> None:
    answer = await http.post(CHAT, json=BODY | {"stream": True}, headers=ALICE)
    [role, *_, done] = parse_events(answer.text.split("\n"))
    assert done.data == "[DONE]"
    path = f"/v1/jobs/{re.findall('chatcmpl-[0-9a-f]+', role.data)[0]}/events"
    for cursor in ({}, {"last-event-id": "1-2"}, {"last-event-id": "nonsense"}):
        assert (await http.get(path, headers=BOB | cursor)).status_code == 404
    assert (await http.get(path, headers=ALICE | {"last-event-id": done.id})).status_code == 204


async def test_a_key_is_revoked_without_a_restart(http: httpx.AsyncClient, keys_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headrace.keys_file.LOOK_S", 0.0)
    assert (await http.get("/v1/models", headers=ALICE)).status_code == 200
    await asyncio.to_thread(keys_file.write_text, f"{key_line('hr_bob', 'bob')}\n")
    assert (await http.get("/v1/models", headers=ALICE)).status_code == 401
    assert (await http.get("/v1/models", headers=BOB)).status_code == 200


async def test_a_large_body_without_a_key_gets_its_answer(http: httpx.AsyncClient) -> None:
    response = await http.post("/v1/jobs", content=b" " * 3_000_000, headers={"content-type": "application/json"})
    assert response.status_code == 401
    assert (await http.get("/health")).status_code == 200


async def test_keys_are_not_logged(http: httpx.AsyncClient, url: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    for headers in (ALICE, {"authorization": "Bearer hr_wrong"}, {"authorization": "hr_malformed"}):
        await http.get("/v1/models", headers=headers)
        await http.post("/v1/jobs", content=b"{", headers=headers)
    reader, writer = await asyncio.open_connection(urlsplit(url).hostname, urlsplit(url).port)
    writer.write(b"GET /v1/models HTTP/1.1\r\nauthorization: Bearer hr_alice\r\nhost x\r\n\r\n")
    assert (await reader.read()).startswith(b"HTTP/1.1 400")
    writer.close()
    ours = [record.getMessage() for record in caplog.records if not record.name.startswith(("httpx", "httpcore"))]
    assert not [line for line in ours if "hr_" in line]
