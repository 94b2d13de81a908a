import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.cursor import ROLE, Cursor, parse_cursor
from headrace.errors import CursorInvalid

parts = st.integers(0, 10**15 - 1)


@given(st.builds(Cursor, parts, parts, st.integers(0, 9_999)))
def test_what_is_printed_parses_to_itself(cursor: Cursor) -> None:
    assert parse_cursor(str(cursor), param="after") == cursor


@given(st.text(alphabet="0123456789-. x１", max_size=12))
def test_whatever_parses_prints_as_it_came(text: str) -> None:
    with contextlib.suppress(CursorInvalid):
        assert str(parse_cursor(text, param="after")) == text


@pytest.mark.parametrize(
    "text", ["", "1", "1-", "-1", "01-1", "1-01", "1-1.0", "1-1.", "1-1 ", "1-1\n", "1-1.1.1", "１-1", "1-" + "9" * 16]
)
def test_near_misses_are_refused(text: str) -> None:
    with pytest.raises(CursorInvalid):
        parse_cursor(text, param="Last-Event-ID")


def test_cursors_order_by_epoch_then_count_then_event() -> None:
    assert ROLE < Cursor(1, 1) < Cursor(1, 1, 1) < Cursor(1, 2) < Cursor(2, 2)
