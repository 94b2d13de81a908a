from headrace.cli.living_valkey import Silence


def test_a_server_hangs_once_it_gave_no_answer_for_long_enough() -> None:
    silence = Silence(10.0, longest_look=3.0)
    assert [silence.too_long(answered=False, passed=2.0) for _ in range(5)] == [False, False, False, False, True]


def test_an_answer_begins_anew() -> None:
    silence = Silence(10.0, longest_look=3.0)
    looks = [False] * 4 + [True] + [False] * 5
    assert [silence.too_long(answered=answered, passed=2.0) for answered in looks].index(True) == 9


def test_a_look_after_a_long_sleep_counts_as_one() -> None:
    silence = Silence(10.0, longest_look=3.0)
    assert not silence.too_long(answered=False, passed=3_600.0)
    assert not silence.too_long(answered=True, passed=3_600.0)
