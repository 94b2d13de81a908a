from hypothesis import given
from hypothesis import strategies as st

from headrace.client import Event, parse_events

STREAM = [": ping", "id: 0-0", 'data: {"a": 1}', "", ": ping", "id: 1-1", "data: two", "data: lines", "", "id: 1-2", "data: [DONE]", ""]
EVENTS = [Event("0-0", '{"a": 1}'), Event("1-1", "two\nlines"), Event("1-2", "[DONE]")]


def test_events_are_read_and_comments_are_not() -> None:
    assert list(parse_events(STREAM)) == EVENTS


@given(st.integers(0, len(STREAM)))
def test_a_cut_stream_gives_whole_events_only(cut: int) -> None:
    seen = list(parse_events(STREAM[:cut]))
    assert seen == EVENTS[: len(seen)]
    assert len(seen) == STREAM[:cut].count("")
