"""A client of the event streams that resumes by itself: cut connections and restarted servers cost time, never a token or one shown twice.

POST /v1/chat/completions ──► events … ✂ ──► GET /v1/jobs/<id>/events, Last-Event-ID: <last seen> ──► the rest

Every connection may go to another replica.
"""

import json
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import httpx

from headrace.cursor import Cursor, parse_cursor
from headrace.errors import LONGEST_WAIT_S, CursorInvalid, HeadraceError, StreamRestarted

DONE = "[DONE]"
PATIENCE_S = 120.0
"""How long the server may stay away before the client gives up. Who says when to come back is not away."""
_RETRY_S = 0.25
_CHAT_ID = "chatcmpl-"


class StreamFailed(HeadraceError):
    """The server ended the stream with an error, or refused it; or it stayed away for too long."""


@dataclass(frozen=True, slots=True)
class Event:
    id: str
    data: str


def parse_events(lines: Iterable[str]) -> Iterator[Event]:
    """Server-sent events from decoded lines (WHATWG HTML 9.2.6, the fields we send). An event without its blank line never happened."""
    event_id, data = "", []
    for line in lines:
        if line.startswith("id:"):
            event_id = line[3:].strip()
        elif line.startswith("data:"):
            data.append(line[5:].removeprefix(" "))
        elif line == "" and data:
            yield Event(event_id, "\n".join(data))
            data = []


def lines_of(chunks: Iterable[bytes]) -> Iterator[str]:
    """Lines of a stream that arrives in any pieces; one without its end never happened.

    httpx's own would do, but that it takes U+2028, U+2029 and U+0085 for ends of lines, and all three may stand in a model's text.
    """
    rest = b""
    for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line.removesuffix(b"\r").decode(errors="replace")


Waiting = Callable[[str], None]
"""Told what is waited for, in words, whenever that changes."""


def _untold(_what: str) -> None:
    pass


def stream_chat(client: httpx.Client, body: dict[str, Any], waiting: Waiting = _untold) -> Iterator[dict[str, Any]]:
    """The chunks of one chat completion. Raises StreamFailed."""
    key = uuid.uuid4().hex  # a POST cut before its first event is repeated under the same key and finds the same job
    job_id: str | None = None

    def connect(last_id: str) -> AbstractContextManager[httpx.Response]:
        if job_id is None:
            return client.stream("POST", "/v1/chat/completions", json={**body, "stream": True}, headers={"idempotency-key": key})
        return _events_of(client, job_id, last_id)

    for chunk in _chunks(connect, waiting):
        job_id = chunk["id"].removeprefix(_CHAT_ID)
        yield chunk


def follow_job(client: httpx.Client, job_id: str, waiting: Waiting = _untold) -> Iterator[dict[str, Any]]:
    """The chunks of a job from its first. Raises StreamFailed."""
    return _chunks(lambda last_id: _events_of(client, job_id, last_id), waiting)


def _events_of(client: httpx.Client, job_id: str, last_id: str) -> AbstractContextManager[httpx.Response]:
    return client.stream("GET", f"/v1/jobs/{job_id}/events", headers={"last-event-id": last_id} if last_id else {})


def _chunks(connect: Callable[[str], AbstractContextManager[httpx.Response]], waiting: Waiting) -> Iterator[dict[str, Any]]:
    """Events of one stream over as many connections as it takes."""
    seen: Cursor | None = None
    job = ""
    failing_since: float | None = None

    def heard(chunks: Iterable[bytes]) -> Iterator[str]:
        nonlocal failing_since
        for line in lines_of(chunks):
            failing_since = None  # a ping will do: the server is there, and the job waits for its turn
            yield line

    while True:
        why, asked_s = "it ended the stream before its end", 0.0
        try:
            with connect("" if seen is None else str(seen)) as response:
                _refuse_error(response, job)
                waiting("the next token")
                for event in parse_events(heard(response.iter_bytes())):
                    cursor = _cursor(event)
                    if seen is not None and cursor <= seen:
                        continue
                    seen = cursor
                    if event.data == DONE:
                        return
                    chunk = _chunk(event)
                    job = chunk["id"]
                    yield chunk
        except httpx.TransportError as error:
            why = str(error) or type(error).__name__
        except _Unavailable as error:
            why, asked_s = str(error), error.pause_s
        now, pause_s = time.monotonic(), max(_RETRY_S, asked_s)
        failing_since = now + asked_s if asked_s else failing_since or now
        if now + pause_s - failing_since > PATIENCE_S:
            raise StreamFailed(f"the server stayed away for {now - failing_since:.0f} s: {why}" + _how_to_go_on(job))
        waiting(f"the server: {why}")
        time.sleep(pause_s)


def _how_to_go_on(job: str) -> str:
    return f"; once it is back, `headrace jobs watch {job}` shows the answer and goes on with it" if job else ""


def _cursor(event: Event) -> Cursor:
    try:
        return parse_cursor(event.id, param="id")
    except CursorInvalid as error:
        raise StreamFailed(f"the server sent an event that cannot be resumed from: {error}") from None


def _chunk(event: Event) -> dict[str, Any]:
    chunk: dict[str, Any] = json.loads(event.data)
    if "error" in chunk:
        raise StreamFailed(chunk["error"]["message"])
    return chunk


class _Unavailable(Exception):
    """The server asks to come back later, in `pause_s` if it says when."""

    def __init__(self, why: str, pause_s: float) -> None:
        super().__init__(why)
        self.pause_s = pause_s


def _refuse_error(response: httpx.Response, job: str) -> None:
    """Ours come in the envelope; a proxy in between answers as it likes."""
    if response.is_server_error or response.status_code == httpx.codes.TOO_MANY_REQUESTS:
        given = response.headers.get("retry-after", "")
        pause_s = float(given) if given.isdecimal() else 0.0
        if pause_s > LONGEST_WAIT_S:
            raise StreamFailed(f"status {response.status_code}, come back in {pause_s:.0f} s: longer than {LONGEST_WAIT_S:.0f} s")
        raise _Unavailable(f"status {response.status_code}" + (f", come back in {pause_s:.0f} s" if pause_s else ""), pause_s)
    if response.status_code == 204:
        raise StreamFailed("the job has no more events")
    if response.is_error:
        response.read()
        try:
            error = response.json()["error"]
            message, code = error["message"], error.get("code")
        except (ValueError, KeyError, TypeError, AttributeError):
            message, code = f"status {response.status_code}", None
        if code == StreamRestarted.code:
            message = f"the answer that was shown is void: {message}; `headrace jobs watch {job}` shows the new one from its beginning"
        raise StreamFailed(message)
