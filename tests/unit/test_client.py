import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.client import Event, StreamFailed, follow_job, lines_of, parse_events, stream_chat
from headrace.errors import LONGEST_WAIT_S

STREAM = [": ping", "id: 0-0", 'data: {"a": 1}', "", ": ping", "id: 1-1", "data: two", "data: lines", "", "id: 1-2", "data: [DONE]", ""]
EVENTS = [Event("0-0", '{"a": 1}'), Event("1-1", "two\nlines"), Event("1-2", "[DONE]")]
JOB = "00" + "a" * 29


def test_events_are_read_and_comments_are_not() -> None:
    assert list(parse_events(STREAM)) == EVENTS


@given(st.integers(0, len(STREAM)))
def test_a_cut_stream_gives_whole_events_only(cut: int) -> None:
    seen = list(parse_events(STREAM[:cut]))
    assert seen == EVENTS[: len(seen)]
    assert len(seen) == STREAM[:cut].count("")


@given(st.lists(st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]))), st.text(max_size=5), st.data())
def test_lines_are_the_same_in_whatever_pieces_they_come(lines: list[str], partial: str, data: st.DataObject) -> None:
    whole = "".join(line + "\n" for line in lines).encode() + partial.replace("\n", "").encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=6)))
    pieces = [whole[start:end] for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    assert list(lines_of(pieces)) == lines


def test_line_ends_of_other_systems() -> None:
    assert list(lines_of([b"a\r", b"\n\r\nb\xe2\x80", b"\xa8c\n"])) == ["a", "", "b\u2028c"]


def wire(*events: tuple[str, str]) -> bytes:
    return "".join(f"id: {name}\ndata: {data}\n\n" for name, data in events).encode()


def chunk(text: str) -> str:
    return json.dumps({"id": f"chatcmpl-{JOB}", "choices": [{"delta": {"content": text}}]}, ensure_ascii=False)


def stream(content: bytes, *, cut: bool = False) -> httpx.Response:
    def pieces() -> Iterator[bytes]:
        yield content
        if cut:
            raise httpx.ReadError("cut")

    return httpx.Response(200, content=pieces())


@pytest.fixture
def naps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long the client waited, each time; and time passes."""
    slept: list[float] = []
    monkeypatch.setattr("headrace.client.time.sleep", slept.append)
    monkeypatch.setattr("headrace.client.time.monotonic", lambda: 100.0 + sum(slept))
    return slept


def talk(follow: Callable[[httpx.Client], Iterable[dict[str, Any]]], answers: list[httpx.Response]) -> tuple[str, list[httpx.Request]]:
    """What was read, and what was asked."""
    asked: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return answers.pop(0)

    with httpx.Client(transport=httpx.MockTransport(answer), base_url="http://x") as http:
        chunks = [one["choices"] for one in follow(http)]
    assert not answers
    return "".join(choices[0]["delta"]["content"] for choices in chunks), asked


def test_it_goes_on_behind_the_last_whole_event_and_shows_none_twice(naps: list[float]) -> None:
    answers = [
        stream(wire(("0-0", chunk("")), ("1-1", chunk("a"))) + b"id: 1-2\ndata: half", cut=True),
        httpx.Response(503, headers={"retry-after": "7"}),
        stream(wire(("1-1", chunk("a")), ("1-2", chunk("b\u2028\x85"))), cut=False),
        stream(wire(("2-3", chunk("c")), ("2-4", "[DONE]"))),
    ]
    text, asked = talk(lambda http: stream_chat(http, {"model": "m"}), answers)
    assert text == "ab\u2028\x85c"
    assert naps == [0.25, 7.0, 0.25]
    assert [request.method for request in asked] == ["POST", "GET", "GET", "GET"]
    assert [request.headers.get("last-event-id") for request in asked] == [None, "1-1", "1-1", "1-2"]
    assert asked[1].url.path == f"/v1/jobs/{JOB}/events"


def test_who_gives_up_says_how_to_go_on(naps: list[float]) -> None:
    answers = [stream(wire(("1-1", chunk("a")))), *(httpx.Response(502) for _ in range(1_000))]
    with pytest.raises(StreamFailed, match=f"`headrace jobs watch chatcmpl-{JOB}` shows the answer and goes on"):
        talk(lambda http: stream_chat(http, {"model": "m"}), answers)


def test_what_is_waited_for_is_told(naps: list[float]) -> None:
    told: list[str] = []
    answers = [httpx.Response(502), stream(wire(("1-1", chunk("a"))), cut=True), stream(wire(("1-2", "[DONE]")))]
    talk(lambda http: stream_chat(http, {"model": "m"}, told.append), answers)
    assert told == ["the server: status 502", "the next token", "the server: cut", "the next token"]


def test_a_post_that_is_cut_before_its_first_event_is_repeated_under_its_key(naps: list[float]) -> None:
    answers = [stream(b": ping\nid: 0-", cut=True), httpx.Response(429, headers={"retry-after": "2"}), stream(wire(("1-1", "[DONE]")))]
    text, asked = talk(lambda http: stream_chat(http, {"model": "m"}), answers)
    assert text == ""
    assert naps == [0.25, 2.0]
    assert len({request.headers["idempotency-key"] for request in asked}) == 1
    assert [request.method for request in asked] == ["POST"] * 3


@pytest.mark.parametrize(
    ("last", "said"),
    [
        (httpx.Response(410, json={"error": {"message": "it is gone"}}), "it is gone"),
        (httpx.Response(404, text="<html>"), "status 404"),
        (httpx.Response(404, json={"error": ["message"]}), "status 404"),
        (httpx.Response(204), "no more events"),
        (stream(wire(("1-1", '{"error": {"message": "it failed"}}'))), "it failed"),
        (stream(wire(("one", chunk("a")))), "cannot be resumed from"),
        (httpx.Response(503, headers={"retry-after": "121"}), "come back in 121 s: longer than 120 s"),
    ],
)
def test_what_cannot_be_resumed_is_an_error(naps: list[float], last: httpx.Response, said: str) -> None:
    with pytest.raises(StreamFailed, match=said):
        talk(lambda http: follow_job(http, JOB), [last])


def test_an_answer_that_was_begun_anew_is_no_continuation(naps: list[float]) -> None:
    restarted = httpx.Response(409, json={"error": {"message": "it runs again.", "code": "stream_restarted"}})
    answers = [stream(wire(("1-1", chunk("a"))), cut=True), restarted]
    with pytest.raises(StreamFailed, match=rf"void: it runs again\.; `headrace jobs watch chatcmpl-{JOB}` shows the new one"):
        talk(lambda http: stream_chat(http, {"model": "m"}), answers)


def test_patience_ends(naps: list[float]) -> None:
    with pytest.raises(StreamFailed, match="stayed away for 120 s: status 500"):
        talk(lambda http: follow_job(http, JOB), [httpx.Response(500) for _ in range(481)])


def test_whoever_says_when_to_come_back_is_not_away(naps: list[float]) -> None:
    """The longest wait there is, twice, each behind as long an absence as is borne."""
    told, absent = {"retry-after": f"{LONGEST_WAIT_S:.0f}"}, [502] * 480
    answers = [*absent, 429, *absent, 503]
    refusals = [httpx.Response(status, headers={} if status == 502 else told) for status in answers]
    talk(lambda http: follow_job(http, JOB), [*refusals, stream(wire(("1-1", "[DONE]")))])
    assert sum(naps) == 2 * 480 * 0.25 + 2 * LONGEST_WAIT_S
