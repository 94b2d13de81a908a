import asyncio
import json
from typing import Any

import httpx
import pytest

from headrace.client import Event, parse_events
from headrace.job import Job
from headrace.request import Endpoint, Lane
from headrace.state import State
from headrace.testing.bench import Queue
from headrace.testing.eventually import eventually
from headrace.testing.scripted_worker import PANGRAM, Pace, Script, ScriptedWorker
from producer_api.server import Server

MODEL = "test-model"
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
BODY: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "hi there"}]}


async def jobs(queue: Queue) -> list[Job]:
    return await queue.list_jobs("default", after=None, limit=100)


async def only_job(queue: Queue) -> Job:
    [job] = await eventually(lambda: jobs(queue))
    return job


@pytest.mark.usefixtures("worker")
async def test_what_is_stored(http: httpx.AsyncClient, queue: Queue) -> None:
    fields = {"temperature": 0.5, "top_k": 3, "stop": "x", "max_tokens": 50, "seed": 11, "stream": True}
    await http.post(CHAT, json=BODY | fields, headers={"x-request-timeout": "30"})
    job = await only_job(queue)
    request = job.request
    assert (request.endpoint, request.lane, request.attended, request.stream) == (Endpoint.CHAT, Lane.INTERACTIVE, True, True)
    assert (request.model, request.tenant, len(request.prompt_ids)) == (MODEL, "default", 6)
    sampling = request.sampling
    assert (sampling.temperature, sampling.top_k, sampling.stop, sampling.max_tokens, sampling.seed) == (0.5, 3, ("x",), 50, 11)
    assert job.deadline_ms - job.accepted_ms == 30_000


@pytest.mark.usefixtures("worker")
async def test_seeds_are_drawn_where_none_is_given(http: httpx.AsyncClient, queue: Queue) -> None:
    for _ in range(2):
        await http.post(CHAT, json=BODY)
    first, second = [job.request.sampling.seed for job in await jobs(queue)]
    assert first != second


@pytest.mark.usefixtures("worker")
async def test_stream_headers(http: httpx.AsyncClient) -> None:
    response = await http.post(CHAT, json=BODY | {"stream": True})
    assert response.headers["content-type"].startswith("text/event-stream")
    assert "no-cache" in response.headers["cache-control"]
    assert response.headers["x-accel-buffering"] == "no"
    assert "content-encoding" not in response.headers
    assert response.headers["x-request-id"].startswith("req_")


@pytest.mark.usefixtures("slow_worker")
async def test_tokens_are_sent_as_they_come(http: httpx.AsyncClient, pace: Pace) -> None:
    async with http.stream("POST", CHAT, json=BODY | {"stream": True}) as response:
        lines = response.aiter_lines()
        assert await anext(lines) == "id: 0-0", "the role chunk does not wait for a token"
        for word in PANGRAM[:3]:
            pace.allow(1)
            while f'"content":"{word}"' not in (line := await anext(lines)):
                assert not line.startswith("data") or '"role"' in line
        pace.release()
        rest = [line async for line in lines]
        assert "data: [DONE]" in rest


async def test_a_large_prompt_is_counted_without_holding_up_others(http: httpx.AsyncClient, server: Server, queue: Queue) -> None:
    text = "x" * 30_000 + " y" * 2_000
    async with ScriptedWorker(queue, model=MODEL).run():
        answer = (await http.post(COMPLETIONS, json={"model": MODEL, "prompt": text})).json()
    assert answer["usage"]["prompt_tokens"] == 2_001


@pytest.mark.parametrize(
    ("end", "status", "code"),
    [(State.FAILED, 500, "generation_failed"), (State.CANCELLED, 409, "cancelled"), (State.EXPIRED, 504, "deadline_exceeded")],
)
async def test_ends_that_are_no_answer(http: httpx.AsyncClient, queue: Queue, end: State, status: int, code: str) -> None:
    script = Script(("The", " quick"), end=end, reason="because")
    async with ScriptedWorker(queue, model=MODEL, script=lambda _: script).run():
        whole = await http.post(CHAT, json=BODY)
        assert whole.status_code == status
        assert whole.json()["error"]["code"] == code
        assert whole.headers["x-should-retry"] == "false"
        streamed = await http.post(CHAT, json=BODY | {"stream": True})
    assert streamed.status_code == 200
    *_, last = parse_events(streamed.text.split("\n"))
    assert f'"code":"{code}"' in last.data
    assert "[DONE]" not in streamed.text


async def test_idempotent_replay_of_a_finished_answer(http: httpx.AsyncClient, queue: Queue) -> None:
    key = {"idempotency-key": "k1"}
    async with ScriptedWorker(queue, model=MODEL).run():
        first = await http.post(CHAT, json=BODY, headers=key)
        again = await http.post(CHAT, json=dict(reversed(BODY.items())), headers=key)
    assert first.json() == again.json()
    assert "idempotent-replayed" not in first.headers
    assert again.headers["idempotent-replayed"] == "true"
    assert len(await jobs(queue)) == 1


@pytest.mark.usefixtures("slow_worker")
async def test_idempotent_replay_joins_a_running_stream(http: httpx.AsyncClient, queue: Queue, pace: Pace) -> None:
    body, key = BODY | {"stream": True}, {"idempotency-key": "k2"}

    async def stream() -> list[Event]:
        response = await http.post(CHAT, json=body, headers=key)
        return list(parse_events(response.text.split("\n")))

    first = asyncio.create_task(stream())
    await only_job(queue)
    pace.allow(4)
    second = asyncio.create_task(stream())
    await eventually(lambda: _committed(queue, 4))
    pace.release()
    assert await first == await second
    assert len(await jobs(queue)) == 1


async def _committed(queue: Queue, count: int) -> bool:
    return (await only_job(queue)).committed >= count


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize("path", [CHAT, "/v1/jobs"])
async def test_another_body_under_the_same_key_is_a_conflict(http: httpx.AsyncClient, queue: Queue, path: str) -> None:
    key = {"idempotency-key": "k3"}
    await http.post(CHAT, json=BODY, headers=key)
    other = await http.post(path, json=BODY | {"seed": 5}, headers=key)
    assert other.status_code == 422
    assert other.json()["error"]["code"] == "idempotency_conflict"
    assert other.headers["x-should-retry"] == "false"
    assert len(await jobs(queue)) == 1


async def test_a_dead_workers_stream_goes_on_without_loss_or_repeat(http: httpx.AsyncClient, queue: Queue) -> None:
    pace = Pace(free=False)
    async with ScriptedWorker(queue, model=MODEL, name="first", pace=pace).run():
        streaming = asyncio.create_task(http.post(CHAT, json=BODY | {"stream": True}))
        await only_job(queue)
        pace.allow(4)
        await eventually(lambda: _committed(queue, 4))
    assert await queue.reap_worker("first") == [(await only_job(queue)).request.id]
    async with ScriptedWorker(queue, model=MODEL, name="second").run():
        events = list(parse_events((await streaming).text.split("\n")))
    ids = [event.id for event in events]
    assert ids[:6] == ["0-0", "1-1", "1-2", "1-3", "1-4", "3-5"]
    assert events[-1].data == "[DONE]"
    texts = [json.loads(event.data)["choices"][0]["delta"].get("content") for event in events[1:-2]]
    assert tuple(texts) == PANGRAM


@pytest.mark.parametrize("stream", [True, False])
async def test_a_caller_who_leaves_is_not_waited_for(url: str, queue: Queue, server: Server, stream: bool) -> None:
    reader = server.services.reader
    async with httpx.AsyncClient(base_url=url, timeout=20) as client:
        waiting = asyncio.create_task(client.post(CHAT, json=BODY | {"stream": stream}))
        await eventually(lambda: _true(bool(reader._open)))
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
    await eventually(lambda: _true(not reader._open), pause=0.01)
    job = await only_job(queue)
    assert job.state is State.QUEUED, "the store's grace period cancels it, not the API"


async def _true(value: bool) -> bool:
    return value
