from headrace.client import parse_events
from headrace.cursor import Cursor
from producer_api.chunks import Event
from producer_api.sse import PING, frame


def test_id_comes_before_data_and_a_blank_line_ends_the_event() -> None:
    assert frame([Event(Cursor(3, 57, 1), b'{"a":1}')]) == b'id: 3-57.1\ndata: {"a":1}\n\n'


def test_a_batch_is_one_piece() -> None:
    assert frame([Event(Cursor(0, 0), b"1"), Event(Cursor(1, 1), b"2")]) == b"id: 0-0\ndata: 1\n\nid: 1-1\ndata: 2\n\n"


def test_ping_is_one_line_and_dispatches_nothing() -> None:
    assert PING == b": ping\n"
    wire = frame([Event(Cursor(0, 0), b"1")]) + PING + PING + frame([Event(Cursor(1, 1), b"2")])
    assert [(event.id, event.data) for event in parse_events(wire.decode().split("\n"))] == [("0-0", "1"), ("1-1", "2")]
