from itertools import pairwise

from headrace.supervise import restart_delay


def test_a_steady_child_is_started_again_at_once() -> None:
    assert restart_delay(0) == 0


def test_delays_grow_to_a_bound() -> None:
    delays = [restart_delay(lives) for lives in range(1, 40)]
    assert all(earlier <= later for earlier, later in pairwise(delays))
    assert delays[0] < 1 < delays[-1] <= 15
