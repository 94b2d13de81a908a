from headrace.tally import TELL_EVERY_S, Tally


def test_the_first_is_told_and_then_one_a_minute_with_how_many() -> None:
    now = 0.0
    tally = Tally(lambda: now)
    assert tally.count() == 1
    assert [tally.count() for _ in range(5)] == [None] * 5
    now += TELL_EVERY_S
    assert tally.count() == 6
    assert tally.count() is None


def test_each_kind_by_itself() -> None:
    tally = Tally(lambda: 0.0)
    assert [tally.count(kind) for kind in ("a", "b", "a", None)] == [1, 1, None, 1]
