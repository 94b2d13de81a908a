from hypothesis import given
from hypothesis import strategies as st

from producer_api.retry_after import retry_after

waits = st.floats(0, 1e9)
luck = st.floats(0, 1, exclude_max=True)


@given(waits, luck)
def test_the_official_client_obeys_it(wait_s: float, luck: float) -> None:
    assert 1 <= retry_after(wait_s, luck) <= 120


@given(waits, luck)
def test_nobody_is_called_back_early_or_much_too_late(wait_s: float, luck: float) -> None:
    wanted = min(max(wait_s, 1), 96)
    assert int(wanted) <= retry_after(wait_s, luck) <= wanted + max(2, wanted / 4)


def test_callers_refused_together_come_back_apart() -> None:
    hundred = [i / 100 for i in range(100)]
    assert len({retry_after(1, luck) for luck in hundred}) == 2
    assert len({retry_after(40, luck) for luck in hundred}) == 10
    assert len({retry_after(10_000, luck) for luck in hundred}) == 24
