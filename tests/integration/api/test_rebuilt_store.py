"""The store is lost and built anew from a log of requests while somebody reads: two answers to one request are never mixed."""

import asyncio
from typing import Any

import httpx
import pytest

from headrace.client import Event, lines_of, parse_events
from headrace.cursor import GENERATION_EPOCHS, parse_cursor
from headrace.testing.backend import Backend
from headrace.testing.bench import Queue
from headrace.testing.builders import make_submission
from headrace.testing.eventually import eventually
from headrace.testing.scripted_worker import PANGRAM, Pace

MODEL = "test-model"
CHAT = "/v1/chat/completions"
BODY: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}


class Reading:
    """A stream, read until it ends or is cut."""

    def __init__(self) -> None:
        self.received = b""
        self.cut = False

    @property
    def events(self) -> list[Event]:
        return list(parse_events(lines_of([self.received])))

    async def follow(self, http: httpx.AsyncClient) -> None:
        try:
            async with http.stream("POST", CHAT, json=BODY | {"stream": True}) as response:
                async for piece in response.aiter_raw():
                    self.received += piece
        except httpx.RemoteProtocolError:
            self.cut = True


async def only_job(queue: Queue, committed: int) -> str:
    async def look() -> str | None:
        jobs = await queue.list_jobs("default", after=None, limit=2)
        return jobs[0].request.id if jobs and jobs[0].committed == committed else None

    return await eventually(look) or ""


async def rebuild(backend: Backend, queue: Queue, job_id: str, generation: int = 1) -> None:
    """What a pump does that finds the request in its log."""
    request = (await queue.get("default", job_id)).request
    backend.lose_everything(queue)
    await queue.begin_generation(generation)
    await queue.admit(make_submission(request))


async def events_behind(http: httpx.AsyncClient, job_id: str, cursor: str | None) -> httpx.Response:
    return await http.get(f"/v1/jobs/{job_id}/events", headers={} if cursor is None else {"last-event-id": cursor})


@pytest.mark.usefixtures("slow_worker")
async def test_an_open_stream_is_cut_and_its_cursor_refused(http: httpx.AsyncClient, queue: Queue, backend: Backend, pace: Pace) -> None:
    reading = Reading()
    following = asyncio.create_task(reading.follow(http))
    pace.allow(3)
    job_id = await only_job(queue, 3)

    async def all_three() -> bool:
        return len(reading.events) == 4

    await eventually(all_three)
    shown = reading.events
    await rebuild(backend, queue, job_id)
    pace.release()
    await following
    assert reading.cut
    assert reading.events == shown

    for event in shown[1:]:
        refused = await events_behind(http, job_id, event.id)
        error = refused.json()["error"]
        assert (refused.status_code, error["code"], error["param"]) == (409, "stream_restarted", "Last-Event-ID")
        assert refused.headers["x-should-retry"] == "false"
    anew = (await events_behind(http, job_id, None)).text
    assert [event.id for event in parse_events(anew.split("\n"))][1] == f"{GENERATION_EPOCHS + 1}-1"
    behind_the_role = (await events_behind(http, job_id, shown[0].id)).text
    assert behind_the_role.endswith("data: [DONE]\n\n")
    assert len(list(parse_events(behind_the_role.split("\n")))) == len(list(parse_events(anew.split("\n")))) - 1


@pytest.mark.usefixtures("slow_worker")
async def test_a_call_that_waits_gets_one_whole_answer(http: httpx.AsyncClient, queue: Queue, backend: Backend, pace: Pace) -> None:
    waiting = asyncio.create_task(http.post(CHAT, json=BODY))
    pace.allow(3)
    job_id = await only_job(queue, 3)
    await rebuild(backend, queue, job_id)
    pace.release()
    response = await waiting
    assert response.json()["choices"][0]["message"]["content"] == "".join(PANGRAM)
    assert response.json()["usage"]["completion_tokens"] == len(PANGRAM) + 1


@pytest.mark.usefixtures("worker")
async def test_cursors_of_each_generation_know_their_own(http: httpx.AsyncClient, queue: Queue, backend: Backend) -> None:
    cursors = []
    job_id = (await http.post("/v1/jobs", json=BODY)).json()["id"]
    for generation in (1, 2, 3):
        whole = list(parse_events((await events_behind(http, job_id, None)).text.split("\n")))
        cursors.append(whole[3].id)
        assert parse_cursor(cursors[-1], param="").entry.generation == generation - 1
        answers = [(await events_behind(http, job_id, cursor)).status_code for cursor in cursors]
        assert answers == [409] * (generation - 1) + [200]
        await rebuild(backend, queue, job_id, generation)
    ahead = await events_behind(http, job_id, f"{4 * GENERATION_EPOCHS + 1}-1")
    assert (ahead.status_code, ahead.json()["error"]["code"]) == (400, "invalid_cursor")
