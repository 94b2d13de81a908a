"""Whatever the pieces a text comes in: no stop string is shown, nothing else is withheld, and what is held back may yet be one."""

from hypothesis import given, settings
from hypothesis import strategies as st

from workers.engine.stop_matcher import StopMatcher

few = st.text(alphabet="aab😀", max_size=6)
stops = st.lists(few.filter(bool) | st.text(min_size=1, max_size=3), max_size=4)
pieces = st.lists(few | st.text(max_size=4), max_size=20)


@settings(max_examples=500)
@given(stops, pieces)
def test_any_pieces(stops: list[str], pieces: list[str]) -> None:
    matcher, text, shown = StopMatcher(stops), "", ""
    for piece in pieces:
        text += piece
        passed = matcher.push(piece)
        shown += passed.text
        assert text.startswith(shown)
        assert not any(stop in shown for stop in stops)
        if passed.stopped:
            assert any(text.startswith(shown + stop) for stop in stops)
            return
        held = text[len(shown) :]
        assert not any(stop in text for stop in stops)
        assert held == "" or any(stop.startswith(held) and stop != held for stop in stops)
    assert shown + matcher.flush() == text


@given(stops, pieces)
def test_a_character_at_a_time_stops_no_later(stops: list[str], pieces: list[str]) -> None:
    """The finer the pieces, the sooner a match is seen; what was shown by then is the same text."""
    text = "".join(pieces)
    coarse, fine = StopMatcher(stops), StopMatcher(stops)
    whole = coarse.push(text)
    shown, stopped = "", False
    for char in text:
        passed = fine.push(char)
        shown += passed.text
        if passed.stopped:
            stopped = True
            break
    assert stopped == whole.stopped
    if not stopped:
        assert shown == whole.text
