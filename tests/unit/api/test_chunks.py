import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.cursor import START, Cursor, LogPosition, parse_cursor
from headrace.job import LogEntry
from headrace.logprobs import Logprobs
from headrace.request import Endpoint, Request
from headrace.state import TERMINAL, State
from headrace.testing.builders import make_request
from headrace.testing.words import WordPrompter
from headrace.wire.answers import answer_id, bare_job_id, whole_answer
from headrace.wire.spelling import Spelling, joined
from producer_api.chunks import DONE, Event, entry_events, opening, resume_point

POSITION = LogPosition(3, 57)


def tokens(text: str, *, position: LogPosition = POSITION, count: int = 1) -> LogEntry:
    return LogEntry(position=position, token_ids=tuple(range(count)), text=text)


def end(state: State = State.DONE, reason: str = "stop", position: LogPosition = POSITION, cached_tokens: int | None = None) -> LogEntry:
    return LogEntry(position=position, end=state, reason=reason, cached_tokens=cached_tokens)


def parsed(event: Event) -> Any:
    return orjson.loads(event.data)


def test_role_chunk_opens_a_chat_stream_and_says_the_role_once() -> None:
    request = make_request()
    [event] = opening(request, None)
    assert str(event.cursor) == "0-0"
    chunk = parsed(event)
    assert chunk["id"] == f"chatcmpl-{request.id}"
    assert (chunk["object"], chunk["created"], chunk["model"]) == ("chat.completion.chunk", request.created, request.model)
    assert chunk["choices"] == [{"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}]
    [text] = entry_events(request, tokens("Hi"), 1, None)
    assert parsed(text)["choices"][0]["delta"] == {"content": "Hi"}


def test_completions_have_no_opening_event() -> None:
    assert opening(make_request(endpoint=Endpoint.COMPLETIONS), None) == []


def test_text_chunk_has_the_entrys_position() -> None:
    [event] = entry_events(make_request(endpoint=Endpoint.COMPLETIONS), tokens("Hi"), 1, None)
    assert str(event.cursor) == "3-57"
    chunk = parsed(event)
    assert chunk["object"] == "text_completion"
    assert chunk["choices"] == [{"index": 0, "text": "Hi", "logprobs": None, "finish_reason": None}]


def test_entry_without_text_makes_no_event() -> None:
    assert entry_events(make_request(), tokens("", count=3), 3, None) == []


def test_usage_key_is_absent_unless_asked_for() -> None:
    request = make_request()
    events = [*opening(request, None), *entry_events(request, tokens("a"), 1, None), *entry_events(request, end(), 1, None)]
    assert all("usage" not in parsed(event) for event in events if event.data != DONE)
    assert [str(event.cursor) for event in events[2:]] == ["3-57", "3-57.1"]
    assert events[-1].data == DONE


def test_usage_is_null_until_the_last_chunk_when_asked_for() -> None:
    request = make_request(prompt_ids=(1, 2), include_usage=True)
    before = [*opening(request, None), *entry_events(request, tokens("a"), 1, None)]
    finish, usage, done = entry_events(request, end(reason="length"), 7, None)
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
    [event] = entry_events(make_request(include_usage=True), end(state, "why"), 1, None)
    error = parsed(event)["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["code"] == code


def test_a_failures_reason_is_told() -> None:
    [event] = entry_events(make_request(), end(State.FAILED, "the prompt never fits"), 0, None)
    assert "the prompt never fits" in parsed(event)["error"]["message"]


@pytest.mark.parametrize("endpoint", list(Endpoint))
def test_whole_answer_joins_the_log(endpoint: Endpoint) -> None:
    request = make_request(endpoint=endpoint, prompt_ids=(1, 2, 3))
    log = [tokens("Hel", count=2), tokens("lo"), tokens(""), end(reason="length")]
    answer = whole_answer(request, log, None)
    choice = answer["choices"][0]
    assert answer["id"] == answer_id(request)
    assert (choice["message"]["content"] if endpoint is Endpoint.CHAT else choice["text"]) == "Hello"
    assert choice["finish_reason"] == "length"
    assert answer["usage"].items() >= {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}.items()


@pytest.mark.parametrize(("cached", "told"), [(64, {"cached_tokens": 64}), (0, {"cached_tokens": 0}), (None, {})])
def test_usage_tells_cached_tokens_where_they_are_known(cached: int | None, told: dict[str, int]) -> None:
    request = make_request(include_usage=True)
    answer = whole_answer(request, [tokens("a"), end(cached_tokens=cached)], None)
    *_, last, _ = entry_events(request, end(cached_tokens=cached), 1, None)
    assert answer["usage"]["prompt_tokens_details"] == {"audio_tokens": 0, **told}
    assert parsed(last)["usage"] == answer["usage"]


def test_job_id_is_found_in_an_answers_id() -> None:
    for endpoint in Endpoint:
        request = make_request(endpoint=endpoint)
        assert bare_job_id(answer_id(request)) == request.id
    assert bare_job_id("anything") == "anything"


def test_resume_point_is_before_the_cursors_entry() -> None:
    assert resume_point(Cursor(3, 57, 2), None) == (3, 56)
    assert resume_point(Cursor(0, 0), None) == (0, 0)


@st.composite
def told(draw: st.DrawFn, states: Sequence[State] = tuple(TERMINAL)) -> tuple[Request, list[LogEntry]]:
    """A request, and a log of it: entries of 1 to 4 tokens, some without text, epochs that move on now and then, and an end."""
    endpoint, n, logprobs = draw(st.sampled_from(Endpoint)), draw(st.integers(1, 3)), draw(st.none() | st.integers(0, 2))
    echo = endpoint is Endpoint.COMPLETIONS and draw(st.booleans())
    tells_prompt = echo and logprobs is not None
    request = make_request(
        endpoint=endpoint,
        include_usage=draw(st.booleans()),
        prompt_ids=(7, 8),
        echo=echo,
        n=n,
        logprobs=logprobs,
        prompt_logprobs=tells_prompt,
    )
    epoch, count = draw(st.integers(1, 3)), 0
    log: list[LogEntry] = []
    for size in draw(st.lists(st.integers(1, 4), max_size=8)):
        epoch += draw(st.integers(0, 1))
        count += size
        choice = draw(st.integers(0, n - 1))
        first = all(entry.choice != choice for entry in log)
        entry = tokens(draw(st.sampled_from(["", "a", "bc", "é🙂"])), position=LogPosition(epoch, count), count=size)
        logs = () if logprobs is None else (Logprobs(-0.5, ((9, -0.25), (3, -0.5))[:logprobs]),) * size
        log.append(replace(entry, choice=choice, logprobs=logs, prompt_logprobs=(Logprobs(-1.0),) if tells_prompt and first else ()))
    state = draw(st.sampled_from(states))
    reason = ",".join(["stop"] * n) if state is State.DONE else "stop"
    return request, [*log, end(state, reason, LogPosition(epoch + draw(st.integers(0, 1)), count + 1))]


def rendered(request: Request, log: list[LogEntry], seen: Cursor | None = None) -> list[Event]:
    """As a stream does it for somebody who has seen everything up to `seen`."""
    committed = log[-1].position.n - 1
    spelling = Spelling.of(request, lambda _: WordPrompter())
    after = START if seen is None else resume_point(seen, spelling)
    events = opening(request, spelling)
    for entry in log:
        if entry.position > after:
            events += entry_events(request, entry, committed, spelling)
    return [event for event in events if seen is None or event.cursor > seen]


@given(told())
def test_ids_increase_and_read_back(made: tuple[Request, list[LogEntry]]) -> None:
    cursors = [event.cursor for event in rendered(*made)]
    assert all(first < second for first, second in itertools.pairwise(cursors))
    assert [parse_cursor(str(cursor), param="after") for cursor in cursors] == cursors


@given(told(), st.data())
def test_a_cut_at_any_event_resumes_with_exactly_the_rest(made: tuple[Request, list[LogEntry]], data: st.DataObject) -> None:
    whole = rendered(*made)
    cut = data.draw(st.integers(1, len(whole)))
    assert rendered(*made, seen=whole[cut - 1].cursor) == whole[cut:]


@given(told(states=[State.DONE]))
def test_the_chunks_of_a_stream_are_the_whole_answer(made: tuple[Request, list[LogEntry]]) -> None:
    request, log = made
    chunks = [parsed(event) for event in rendered(request, log) if event.data != DONE]
    for choice in whole_answer(request, log, Spelling.of(request, lambda _: WordPrompter()))["choices"]:
        own = [one for chunk in chunks for one in chunk["choices"] if one["index"] == choice["index"]]
        assert own[-1]["finish_reason"] == choice["finish_reason"]
        assert joined([one["logprobs"] for one in own]) == choice["logprobs"]
        if request.endpoint is Endpoint.CHAT:
            assert "".join(one["delta"].get("content", "") for one in own) == choice["message"]["content"]
        elif own_entries(log, choice["index"]) or not request.sampling.prompt_logprobs:
            assert "".join(one["text"] for one in own) == choice["text"]


def own_entries(log: list[LogEntry], choice: int) -> list[LogEntry]:
    return [entry for entry in log if entry.choice == choice and entry.end is None]


def test_choices_open_in_order_and_end_each_by_itself() -> None:
    request = make_request(n=3, include_usage=True)
    events = [*opening(request, None), *entry_events(request, end(reason="stop,length,stop"), 5, None)]
    assert [str(event.cursor) for event in events] == ["0-0", "0-0.1", "0-0.2", "3-57", "3-57.1", "3-57.2", "3-57.3", "3-57.4"]
    assert [parsed(event)["choices"][0]["index"] for event in events[:6]] == [0, 1, 2] * 2
    assert [parsed(event)["choices"][0]["finish_reason"] for event in events[3:6]] == ["stop", "length", "stop"]
    assert parsed(events[6])["usage"]["completion_tokens"] == 5


def test_tokens_without_text_are_told_where_logprobs_are() -> None:
    request = make_request(logprobs=0)
    entry = replace(tokens(""), logprobs=(Logprobs(-0.5),))
    [event] = entry_events(request, entry, 1, Spelling(request, WordPrompter()))
    [choice] = parsed(event)["choices"]
    assert choice["delta"] == {}
    assert [token["logprob"] for token in choice["logprobs"]["content"]] == [-0.5]


def test_token_ids_are_told_where_they_are_asked_for_also_of_tokens_without_text() -> None:
    request = make_request(endpoint=Endpoint.COMPLETIONS).model_copy(update={"return_token_ids": True})
    log = [tokens("Hi", count=2), tokens("", count=1), end()]
    events = [parsed(event) for entry in log for event in entry_events(request, entry, 3, None) if event.data != DONE]
    assert [event["choices"][0].get("token_ids") for event in events] == [[0, 1], [0], None]
    assert whole_answer(request, log, None)["choices"][0]["token_ids"] == [0, 1, 0]
