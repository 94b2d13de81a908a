import random

import pytest

from workers.engine.stop_matcher import Passed, StopMatcher


def feed(stops: list[str], pieces: list[str]) -> tuple[str, bool]:
    """All that is shown of the pieces, and whether a stop string ended it."""
    matcher = StopMatcher(stops)
    shown = ""
    for piece in pieces:
        text, stopped = matcher.push(piece)
        shown += text
        if stopped:
            return shown, True
    return shown + matcher.flush(), False


def test_without_stops_text_passes_at_once() -> None:
    assert StopMatcher([]).push("abc") == Passed("abc", False)


def test_a_possible_beginning_is_held_back_until_it_is_none() -> None:
    matcher = StopMatcher(["END"])
    assert matcher.push("the E") == Passed("the ", False)
    assert matcher.push("N") == Passed("", False)
    assert matcher.push("d") == Passed("ENd", False)


def test_a_match_across_pieces_is_not_shown() -> None:
    assert feed(["END"], ["a E", "N", "D b"]) == ("a ", True)


def test_of_two_matches_the_first_in_the_text_counts() -> None:
    assert feed(["yy", "xx"], ["a xx b yy"]) == ("a ", True)
    assert feed(["abc", "b"], ["abc"]) == ("", True)


def test_a_text_that_repeats_the_beginning_is_still_found() -> None:
    assert feed(["aab"], ["a", "a", "a", "b"]) == ("a", True)


def test_what_is_held_at_the_end_is_shown() -> None:
    assert feed(["\n\nUser:"], ["bye\n", "\nUs"]) == ("bye\n\nUs", False)


@pytest.mark.parametrize("seed", range(50))
def test_pieces_make_no_difference(seed: int) -> None:
    """One character at a time, or in pieces none of which holds two stops: the same as a search in the whole text."""
    rng = random.Random(seed)
    text = "".join(rng.choices("ab", k=40))
    stops = ["".join(rng.choices("ab", k=rng.randint(2, 6))) for _ in range(rng.randint(0, 2))]
    found = [place for place in (text.find(stop) for stop in stops) if place >= 0]
    shown, stopped = feed(stops, list(text))
    assert stopped == bool(found)
    ends = [text.find(stop) + len(stop) for stop in stops if stop in text]
    if not found:
        assert shown == text
    else:
        # Reading on, the match that ends first is seen first.
        first = min(ends)
        assert shown == text[: min(first - len(stop) for stop in stops if text[:first].endswith(stop))]
