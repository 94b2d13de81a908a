import itertools
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.cursor import Cursor, LogPosition, parse_cursor
from headrace.ports import LogEntry
from headrace.request import Endpoint, Request
from headrace.state import TERMINAL, State
from headrace.testing.builders import make_request
from headrace.wire.answers import answer_id, bare_job_id, whole_answer
from producer_api.chunks import DONE, Event, entry_events, opening, resume_point

POSITION = LogPosition(3, 57)


def tokens(text: str, *, position: LogPosition = POSITION, count: int = 1) -> LogEntry:
    return LogEntry(position=position, token_ids=tuple(range(count)), text=text)


def end(state: State = State.DONE, reason: str = "stop", position: LogPosition = POSITION) -> LogEntry:
    return LogEntry(position=position, end=state, reason=reason)


def parsed(event: Event) -> Any:
    return orjson.loads(event.data)


def test_role_chunk_opens_a_chat_stream_and_says_the_role_once() -> None:
    request = make_request()
    [event] = opening(request)
    assert str(event.cursor) == "0-0"
    chunk = parsed(event)
    assert chunk["id"] == f"chatcmpl-{request.id}"
    assert (chunk["object"], chunk["created"], chunk["model"]) == ("chat.completion.chunk", request.created, request.model)
    assert chunk["choices"] == [{"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}]
    [text] = entry_events(request, tokens("Hi"), 1)
    assert parsed(text)["choices"][0]["delta"] == {"content": "Hi"}


def test_completions_have_no_opening_event() -> None:
    assert opening(make_request(endpoint=Endpoint.COMPLETIONS)) == []


def test_text_chunk_has_the_entrys_position() -> None:
    [event] = entry_events(make_request(endpoint=Endpoint.COMPLETIONS), tokens("Hi"), 1)
    assert str(event.cursor) == "3-57"
    chunk = parsed(event)
    assert chunk["object"] == "text_completion"
    assert chunk["choices"] == [{"index": 0, "text": "Hi", "logprobs": None, "finish_reason": None}]


def test_entry_without_text_makes_no_event() -> None:
    assert entry_events(make_request(), tokens("", count=3), 3) == []


def test_usage_key_is_absent_unless_asked_for() -> None:
    request = make_request()
    events = [*opening(request), *entry_events(request, tokens("a"), 1), *entry_events(request, end(), 1)]
    assert all("usage" not in parsed(event) for event in events if event.data != DONE)
    assert [str(event.cursor) for event in events[2:]] == ["3-57", "3-57.1"]
    assert events[-1].data == DONE


def test_usage_is_null_until_the_last_chunk_when_asked_for() -> None:
    request = make_request(prompt_ids=(1, 2), include_usage=True)
    before = [*opening(request), *entry_events(request, tokens("a"), 1)]
    finish, usage, done = entry_events(request, end(reason="length"), 7)
    assert all(parsed(event)["usage"] is None for event in [*before, finish])
    assert parsed(finish)["choices"][0] == {"index": 0, "delta": {}, "logprobs": None, "finish_reason": "length"}
    assert parsed(usage)["choices"] == []
    assert parsed(usage)["usage"].items() >= {"prompt_tokens": 2, "completion_tokens": 7, "total_tokens": 9}.items()
    assert [str(event.cursor) for event in (finish, usage, done)] == ["3-57", "3-57.1", "3-57.2"]
    assert done.data == DONE


@pytest.mark.parametrize(
    ("state", "code"),
    [
        (State.FAILED, "generation_failed"),
        (State.DEAD, "worker_crashed"),
        (State.EXPIRED, "deadline_exceeded"),
        (State.CANCELLED, "cancelled"),
    ],
)
def test_any_other_end_is_one_error_event_without_done(state: State, code: str) -> None:
    [event] = entry_events(make_request(include_usage=True), end(state, "why"), 1)
    error = parsed(event)["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["code"] == code


def test_a_failures_reason_is_told() -> None:
    [event] = entry_events(make_request(), end(State.FAILED, "the prompt never fits"), 0)
    assert "the prompt never fits" in parsed(event)["error"]["message"]


@pytest.mark.parametrize("endpoint", list(Endpoint))
def test_whole_answer_joins_the_log(endpoint: Endpoint) -> None:
    request = make_request(endpoint=endpoint, prompt_ids=(1, 2, 3))
    log = [tokens("Hel", count=2), tokens("lo"), tokens(""), end(reason="length")]
    answer = whole_answer(request, log)
    choice = answer["choices"][0]
    assert answer["id"] == answer_id(request)
    assert (choice["message"]["content"] if endpoint is Endpoint.CHAT else choice["text"]) == "Hello"
    assert choice["finish_reason"] == "length"
    assert answer["usage"].items() >= {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}.items()


def test_job_id_is_found_in_an_answers_id() -> None:
    for endpoint in Endpoint:
        request = make_request(endpoint=endpoint)
        assert bare_job_id(answer_id(request)) == request.id
    assert bare_job_id("anything") == "anything"


def test_resume_point_is_before_the_cursors_entry() -> None:
    assert resume_point(Cursor(3, 57, 2)) == (3, 56)
    assert resume_point(Cursor(0, 0)) == (0, 0)


@st.composite
def logs(draw: st.DrawFn) -> list[LogEntry]:
    """A job's log: entries of 1 to 4 tokens, some without text, epochs that move on now and then, and an end."""
    epoch, n = draw(st.integers(1, 3)), 0
    log = []
    for size in draw(st.lists(st.integers(1, 4), max_size=8)):
        epoch += draw(st.integers(0, 1))
        n += size
        log.append(tokens(draw(st.sampled_from(["", "a", "bc", "é🙂"])), position=LogPosition(epoch, n), count=size))
    state = draw(st.sampled_from(sorted(TERMINAL)))
    return [*log, end(state, "stop", LogPosition(epoch + draw(st.integers(0, 1)), n + 1))]


def rendered(request: Request, log: list[LogEntry]) -> list[Event]:
    committed = log[-1].position.n - 1
    return [*opening(request), *(event for entry in log for event in entry_events(request, entry, committed))]


requests = st.builds(make_request, endpoint=st.sampled_from(Endpoint), include_usage=st.booleans())


@given(requests, logs())
def test_ids_increase_and_read_back(request: Request, log: list[LogEntry]) -> None:
    cursors = [event.cursor for event in rendered(request, log)]
    assert all(first < second for first, second in itertools.pairwise(cursors))
    assert [parse_cursor(str(cursor), param="after") for cursor in cursors] == cursors


@given(requests, logs(), st.data())
def test_a_cut_at_any_event_resumes_with_exactly_the_rest(request: Request, log: list[LogEntry], data: st.DataObject) -> None:
    whole = rendered(request, log)
    cut = data.draw(st.integers(1, len(whole)))
    seen = whole[cut - 1].cursor
    read_again = [entry for entry in log if entry.position > resume_point(seen)]
    committed = log[-1].position.n - 1
    rest = [event for entry in read_again for event in entry_events(request, entry, committed) if event.cursor > seen]
    assert rest == whole[cut:]


def test_token_ids_are_told_where_they_are_asked_for_also_of_tokens_without_text() -> None:
    request = make_request(endpoint=Endpoint.COMPLETIONS).model_copy(update={"return_token_ids": True})
    log = [tokens("Hi", count=2), tokens("", count=1), end()]
    events = [parsed(event) for entry in log for event in entry_events(request, entry, 3) if event.data != DONE]
    assert [event["choices"][0].get("token_ids") for event in events] == [[0, 1], [0], None]
    assert whole_answer(request, log)["choices"][0]["token_ids"] == [0, 1, 0]
