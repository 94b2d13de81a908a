"""From times of arrival to figures."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.item import Item
from benchmarks.recording import Recording, figures, percentile


def test_several_streams() -> None:
    items = [Item((1, 2, 3), 3), Item((4,), 2)]

    told = figures(items, [[1.0, 1.5, 2.5], [3.0, 4.0]])

    assert (told.requests, told.prompt_tokens, told.output_tokens, told.seconds) == (2, 4, 5, 4.0)
    assert (told.output_tokens_per_s, told.total_tokens_per_s) == (1.25, 2.25)
    assert told.ttft_p50_ms == 2_000.0
    assert told.ttft_p95_ms == pytest.approx(2_900.0)
    assert told.itl_p50_ms == 1_000.0, "of 500, 1000 and 1000: gaps within streams, never from one to the other"
    assert told.itl_p95_ms == 1_000.0
    assert told.prefill_tokens_per_s is told.decode_tokens_per_s is None, "streams that share their steps have no rates of their own"


def test_a_stream_alone_tells_prefill_and_decode_apart() -> None:
    told = figures([Item(tuple(range(512)), 5)], [[2.0, 2.5, 3.0, 3.5, 4.0]])

    assert told.prefill_tokens_per_s == 256.0
    assert told.decode_tokens_per_s == 2.0


def test_a_single_token_has_no_gaps() -> None:
    told = figures([Item((1,), 1)], [[0.5]])

    assert told.itl_p50_ms is told.itl_p95_ms is told.decode_tokens_per_s is None


def test_tokens_are_counted_from_the_start_of_the_recording() -> None:
    recording = Recording([Item((1,), 2), Item((2,), 2)])
    recording.note_at(1, [recording.start + 0.25, recording.start + 0.75])
    recording.note_at(0, [recording.start + 1.0])
    recording.note_at(0, [recording.start + 2.0])

    told = recording.figures()

    assert told.seconds == pytest.approx(2.0)
    assert told.ttft_p50_ms == pytest.approx(625.0)


def test_tokens_of_one_moment_have_one_time() -> None:
    recording = Recording([Item((1,), 3)])
    recording.note(0, 1)
    recording.note(0, 2)

    assert recording.figures().output_tokens == 3


def test_other_work_than_was_asked_for_is_refused() -> None:
    recording = Recording([Item((1,), 1), Item((1,), 3)])
    recording.note(0, 1)
    recording.note(1, 2)

    with pytest.raises(ValueError, match="request 1 asked for 3 tokens and got 2"):
        recording.figures()


def test_percentiles_lie_between_ranks() -> None:
    assert percentile([4.0, 1.0, 3.0, 2.0], 50) == 2.5
    assert percentile([1.0, 2.0, 3.0], 95) == pytest.approx(2.9)
    assert percentile([7.0], 95) == 7.0


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(0, 100), st.floats(0, 100))
def test_percentiles_rise_from_the_least_to_the_greatest(values: list[float], low: float, high: float) -> None:
    low, high = sorted((low, high))
    slack = 1e-9 * max(values)

    assert percentile(values, 0) == min(values)
    assert percentile(values, 100) == max(values)
    assert percentile(values, low) <= percentile(values, high) + slack
