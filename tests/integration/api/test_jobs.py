import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from headrace.client import Event, parse_events
from headrace.queues.rules import QueueLimits
from headrace.request import Lane
from headrace.state import State
from headrace.testing.backend import Backend
from headrace.testing.bench import Queue
from headrace.testing.builders import ManualClock
from headrace.testing.eventually import eventually
from headrace.testing.scripted_worker import PANGRAM, Pace, ScriptedWorker

MODEL = "test-model"
CHAT: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}
PROMPT: dict[str, Any] = {"model": MODEL, "prompt": "hi"}


async def submit(http: httpx.AsyncClient, body: dict[str, Any] = CHAT) -> str:
    response = await http.post("/v1/jobs", json=body)
    assert response.status_code == 202
    job_id: str = response.json()["id"]
    return job_id


async def show(http: httpx.AsyncClient, job_id: str) -> dict[str, Any]:
    job: dict[str, Any] = (await http.get(f"/v1/jobs/{job_id}")).json()
    return job


async def ended(http: httpx.AsyncClient, job_id: str) -> dict[str, Any]:
    async def look() -> dict[str, Any] | None:
        job = await show(http, job_id)
        return job if job["ended_at"] else None

    return await eventually(look) or {}


async def events(http: httpx.AsyncClient, job_id: str, last: str | None = None, **params: str) -> list[Event]:
    headers = {} if last is None else {"last-event-id": last}
    response = await http.get(f"/v1/jobs/{job_id}/events", headers=headers, params=params)
    assert response.status_code == 200, response.text
    return list(parse_events(response.text.split("\n")))


async def open_streams(http: httpx.AsyncClient, count: int) -> bool:
    return f"headrace_open_streams {count}.0" in (await http.get("/metrics")).text


async def test_a_submission_is_stored_before_it_is_confirmed(http: httpx.AsyncClient, queue: Queue) -> None:
    response = await http.post("/v1/jobs", json=CHAT | {"stream": True})
    assert response.status_code == 202
    receipt = response.json()
    link = f"/v1/jobs/{receipt['id']}"
    assert response.headers["location"] == link
    assert receipt["links"] == {"self": link, "events": f"{link}/events", "cancel": f"{link}/cancel"}
    job = await queue.get("default", receipt["id"])
    assert (job.state, job.request.lane, job.request.attended, job.request.stream) == (State.QUEUED, Lane.STANDARD, False, False)
    assert job.deadline_ms - job.accepted_ms == 3_600_000


async def test_a_queued_job_shows_its_place(http: httpx.AsyncClient) -> None:
    first, second = await submit(http), await submit(http)
    assert ((await show(http, first))["queue_position"], (await show(http, second))["queue_position"]) == (1, 2)
    job = await show(http, second)
    assert (job["object"], job["status"], job["output_text"], job["result"], job["error"]) == ("job", "queued", "", None, None)
    assert (job["started_at"], job["ended_at"]) == (None, None)
    assert job["deadline_at"] - job["created_at"] in (3_600, 3_601)
    assert job["usage"].items() >= {"prompt_tokens": 5, "completion_tokens": 0, "total_tokens": 5}.items()


@pytest.mark.usefixtures("slow_worker")
async def test_a_running_job_shows_its_text_so_far(http: httpx.AsyncClient, pace: Pace) -> None:
    job_id = await submit(http)
    pace.allow(3)

    async def three() -> dict[str, Any] | None:
        job = await show(http, job_id)
        return job if job["usage"]["completion_tokens"] == 3 else None

    job = await eventually(three) or {}
    assert (job["status"], job["output_text"], job["result"], job["queue_position"]) == ("running", "The quick brown", None, None)
    assert job["started_at"] >= job["created_at"]


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize(
    ("body", "path"),
    [
        (CHAT, "/v1/chat/completions"),
        (PROMPT, "/v1/completions"),
        (CHAT | {"n": 2, "logprobs": True, "top_logprobs": 1}, "/v1/chat/completions"),
        (PROMPT | {"n": 2, "logprobs": 1}, "/v1/completions"),
    ],
)
async def test_a_finished_jobs_result_is_the_answer_of_a_blocking_call(http: httpx.AsyncClient, body: dict[str, Any], path: str) -> None:
    job = await ended(http, await submit(http, body))
    direct = (await http.post(path, json=body)).json()
    assert (job["status"], job["endpoint"], job["output_text"]) == ("done", path, "".join(PANGRAM))
    assert job["result"]["id"].endswith(job["id"])
    same = job["result"].keys() - {"id", "created"}
    assert {key: job["result"][key] for key in same} == {key: direct[key] for key in same}
    by_answer_id = await show(http, job["result"]["id"])
    assert by_answer_id == job


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize("body", [CHAT | {"n": 3, "logprobs": True}, PROMPT | {"n": 2, "logprobs": 0, "echo": True}])
async def test_the_events_of_choices_resume_behind_any_of_them(http: httpx.AsyncClient, body: dict[str, Any]) -> None:
    job_id = await submit(http, body)
    await ended(http, job_id)
    whole = await events(http, job_id)
    assert len({event.id for event in whole}) == len(whole)
    for seen, event in enumerate(whole[:-1], start=1):
        assert await events(http, job_id, event.id) == whole[seen:]


async def test_replays_get_the_same_receipt(http: httpx.AsyncClient, queue: Queue) -> None:
    key = {"idempotency-key": "k"}
    first = await http.post("/v1/jobs", json=CHAT, headers=key)
    again = await http.post("/v1/jobs", json=CHAT, headers=key)
    assert (again.status_code, again.content, again.headers["location"]) == (202, first.content, first.headers["location"])
    assert again.headers["idempotent-replayed"] == "true"
    assert "idempotent-replayed" not in first.headers
    assert len(await queue.list_jobs("default", after=None, limit=9)) == 1


async def test_pages_of_a_list(http: httpx.AsyncClient) -> None:
    ids = [await submit(http) for _ in range(5)]
    seen: list[str] = []
    after: dict[str, str] = {}
    for has_more, size in ((True, 2), (True, 2), (False, 1)):
        page = (await http.get("/v1/jobs", params={"limit": "2", **after})).json()
        assert (page["object"], page["has_more"], len(page["data"])) == ("list", has_more, size)
        assert (page["first_id"], page["last_id"]) == (page["data"][0]["id"], page["data"][-1]["id"])
        seen += [job["id"] for job in page["data"]]
        after = {"after": page["last_id"]}
    assert seen == ids[::-1]


async def test_an_empty_list(http: httpx.AsyncClient) -> None:
    assert (await http.get("/v1/jobs")).json() == {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}


async def test_cancelling_a_queued_job(http: httpx.AsyncClient) -> None:
    job_id = await submit(http)
    for _ in range(2):
        job = (await http.post(f"/v1/jobs/{job_id}/cancel")).json()
        assert (job["status"], job["error"]["code"]) == ("cancelled", "cancelled")
    [event] = (await events(http, job_id))[1:]
    assert '"code":"cancelled"' in event.data


@pytest.mark.usefixtures("slow_worker")
async def test_cancelling_a_running_job_keeps_its_text(http: httpx.AsyncClient, pace: Pace) -> None:
    job_id = await submit(http)
    following = asyncio.create_task(events(http, job_id))
    pace.allow(2)

    async def two() -> bool:
        return bool((await show(http, job_id))["usage"]["completion_tokens"] == 2)

    await eventually(two)
    assert (await http.post(f"/v1/jobs/{job_id}/cancel")).json()["cancel_requested"]
    job = await ended(http, job_id)
    assert (job["status"], job["output_text"], job["result"]) == ("cancelled", "The quick", None)
    assert [event.id for event in await following] == ["0-0", "1-1", "1-2", "1-3"]


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize("body", [CHAT | {"stream_options": {"include_usage": True}}, PROMPT])
async def test_events_from_every_cursor(http: httpx.AsyncClient, body: dict[str, Any]) -> None:
    job_id = await submit(http, body)
    await ended(http, job_id)
    whole = await events(http, job_id)
    assert whole[-1].data == "[DONE]"
    for index, event in enumerate(whole[:-1]):
        assert await events(http, job_id, after=event.id) == whole[index + 1 :]
    assert await events(http, job_id, last=whole[2].id, after=whole[0].id) == whole[3:], "the header wins"
    assert await events(http, job_id, last="", after=whole[0].id) == whole[1:], "an empty header says nothing"
    nothing_left = await http.get(f"/v1/jobs/{job_id}/events", params={"after": whole[-1].id})
    assert (nothing_left.status_code, nothing_left.content) == (204, b"")


@pytest.mark.usefixtures("slow_worker")
async def test_usage_is_right_wherever_a_stream_is_joined(http: httpx.AsyncClient, pace: Pace) -> None:
    job_id = await submit(http, CHAT | {"stream_options": {"include_usage": True}})
    pace.allow(4)

    async def four() -> bool:
        return bool((await show(http, job_id))["usage"]["completion_tokens"] == 4)

    await eventually(four)
    following = [asyncio.create_task(events(http, job_id, **after)) for after in ({}, {"after": "1-2"}, {"after": "1-4"})]
    await eventually(lambda: open_streams(http, 3))
    pace.release()
    job = await ended(http, job_id)
    for one in [*await asyncio.gather(*following), await events(http, job_id, after="1-12")]:
        assert [event.id for event in one[-2:]] == ["1-12.1", "1-12.2"]
        assert f'"completion_tokens":{job["usage"]["completion_tokens"]},' in one[-2].data


@pytest.mark.usefixtures("slow_worker")
async def test_cursors_that_cannot_be(http: httpx.AsyncClient, pace: Pace) -> None:
    job_id = await submit(http)
    pace.allow(2)

    async def two() -> bool:
        return bool((await show(http, job_id))["usage"]["completion_tokens"] == 2)

    async def refused(cursor: str) -> None:
        response = await http.get(f"/v1/jobs/{job_id}/events", params={"after": cursor})
        error = response.json()["error"]
        assert (response.status_code, error["code"], error["param"]) == (400, "invalid_cursor", "after"), cursor

    await eventually(two)
    for cursor in ("x", "1", "1-", "01-1", "1-1.0", "1-1.", "-1-1", "1-1 ", "9" * 40 + "-1", "1-3", "2-1"):
        await refused(cursor)
    pace.release()
    await ended(http, job_id)
    for cursor in ("1-13", "1-12.2", "2-1", "99-999"):
        await refused(cursor)
    response = await http.get(f"/v1/jobs/{job_id}/events", headers={"last-event-id": "x"})
    assert response.json()["error"]["param"] == "Last-Event-ID"


class TestTime:
    @pytest.fixture
    async def queue(self, backend: Backend, clock: ManualClock) -> AsyncIterator[Queue]:
        async with backend.open(clock=clock, limits=QueueLimits(retention_ms=1_000, viewer_grace_ms=1_000)) as queue:
            yield queue

    async def test_what_is_purged_is_gone(self, http: httpx.AsyncClient, queue: Queue, clock: ManualClock) -> None:
        async with ScriptedWorker(queue, model=MODEL).run():
            job_id = await submit(http)
            await ended(http, job_id)
        clock.advance(1_000)
        await queue.purge(10)
        for method, path in (("GET", ""), ("GET", "/events"), ("POST", "/cancel")):
            response = await http.request(method, f"/v1/jobs/{job_id}{path}")
            assert (response.status_code, response.json()["error"]["code"]) == (410, "job_purged")

    @pytest.mark.parametrize("way", ["events", "replay"])
    async def test_coming_back_restarts_the_grace_of_a_stream(
        self, http: httpx.AsyncClient, queue: Queue, clock: ManualClock, way: str
    ) -> None:
        body, key = CHAT | {"stream": True}, {"idempotency-key": "k"}
        async with http.stream("POST", "/v1/chat/completions", json=body, headers=key):
            [job] = await queue.list_jobs("default", after=None, limit=2)
        clock.advance(999)
        again = {
            "events": http.stream("GET", f"/v1/jobs/{job.request.id}/events"),
            "replay": http.stream("POST", "/v1/chat/completions", json=body, headers=key),
        }[way]
        async with again:
            clock.advance(1)
            assert await queue.cancel_unattended(10) == 0
        clock.advance(1_000)
        assert await queue.cancel_unattended(10) == 1
