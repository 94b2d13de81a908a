from hypothesis import given
from hypothesis import strategies as st

from workers.pace import STEPS, TIMES, Pace


def feed(pace: Pace, seconds: float, steps: int, *, tokens: int = 64, cached: int = 9_000) -> list[float | None]:
    return [pace.lags(tokens=tokens, cached=cached, seconds=seconds) for _ in range(steps)]


def test_steps_that_become_slow_are_told_of_when_most_of_the_last_are() -> None:
    pace = Pace()
    assert feed(pace, 0.05, 200) == [None] * 200
    told = feed(pace, 0.5, STEPS)
    few = STEPS // 2 - 1
    assert told[:few] == [None] * few, "less than half of them may be a hiccup"
    assert told[-1] == 10


def test_steps_of_another_size_or_behind_a_longer_context_are_another_matter() -> None:
    pace = Pace()
    feed(pace, 0.05, STEPS)
    assert feed(pace, 0.5, STEPS, tokens=512) + feed(pace, 0.5, STEPS, cached=100_000) == [None] * 2 * STEPS


def test_what_was_slow_from_the_start_is_known_once_it_was_faster() -> None:
    pace = Pace()
    assert feed(pace, 0.5, STEPS) == [None] * STEPS
    feed(pace, 0.05, STEPS)
    assert feed(pace, 0.5, STEPS)[-1] == 10


@given(st.lists(st.tuples(st.integers(1, 2_000), st.floats(0.01, 0.01 * TIMES)), max_size=300))
def test_steps_within_the_bound_are_never_told_of(steps: list[tuple[int, float]]) -> None:
    pace = Pace()
    assert all(pace.lags(tokens=tokens, cached=tokens, seconds=seconds) is None for tokens, seconds in steps)
