from hypothesis import given
from hypothesis import strategies as st

from headrace.errors import LONGEST_WAIT_S, SHORTEST_WAIT_S
from headrace.queues.meter import BUCKET_MS, Drained, Meter, wait_s

counts = st.integers(0, 10**9)


@given(counts, counts, st.integers(0, 10**8))
def test_nobody_waits_less_than_a_second_or_more_than_two_minutes(needed: int, drained: int, span_ms: int) -> None:
    assert SHORTEST_WAIT_S <= wait_s(needed, drained, span_ms) <= LONGEST_WAIT_S


@given(counts, st.integers(1, 10**9), st.integers(0, 10**6), counts)
def test_more_to_wait_for_takes_longer_and_a_faster_queue_less(needed: int, drained: int, span_ms: int, more: int) -> None:
    assert wait_s(needed + more, drained, span_ms) >= wait_s(needed, drained, span_ms)
    assert wait_s(needed, drained + more, span_ms) <= wait_s(needed, drained, span_ms)


def test_a_rate_is_what_it_says() -> None:
    assert wait_s(50, 200, 20_000) == 5.0


def test_one_job_that_left_at_once_makes_no_rate_of_a_thousand_a_second() -> None:
    assert wait_s(100, 1, 1) == 100.0


def test_a_clock_set_back_starts_the_measure_anew() -> None:
    meter = Meter()
    for _ in range(3):
        meter.enter(10, now=10 * BUCKET_MS)
    meter.leave(10, now=10 * BUCKET_MS + 5)
    assert meter.drained(BUCKET_MS) == Drained(1, 10, 0)
    meter.leave(10, now=BUCKET_MS)
    assert meter.drained(BUCKET_MS + 7) == Drained(1, 10, 7)
    assert (meter.live, meter.cost) == (1, 10)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 2 * BUCKET_MS)), max_size=60))
def test_what_left_in_the_span_is_counted(steps: list[tuple[bool, int]]) -> None:
    """As long as something leaves within every two buckets the count is exact for a span of up to three of them."""
    meter, now, left = Meter(), 0, [0]
    for _ in range(len(steps) + 1):
        meter.enter(1, now)
    left.clear()
    for leaves, ms in steps:
        now += ms
        if not leaves:
            continue
        if now - (left[-1] if left else 0) >= BUCKET_MS:
            return  # a pause that may be a standstill
        left.append(now)
        meter.leave(1, now)
        drained = meter.drained(now)
        assert drained.jobs == sum(when >= now - drained.span_ms for when in left)
        assert drained.span_ms < 3 * BUCKET_MS
