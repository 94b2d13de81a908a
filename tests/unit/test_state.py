"""The transition table is whole: every state can be reached, and every live state can be left."""

from headrace.state import LIVE, TERMINAL, TRANSITIONS, State


def test_every_state_is_reached_from_accept() -> None:
    reached: set[State | None] = {None}
    while True:
        grown = reached | {target for sources, targets in TRANSITIONS.values() if sources & reached for target in targets}
        if grown == reached:
            break
        reached = grown
    assert reached == {None, *State}


def test_a_terminal_state_is_left_only_by_purge() -> None:
    assert {name for name, (sources, _) in TRANSITIONS.items() if sources & TERMINAL} == {"purge"}


def test_every_live_state_can_end() -> None:
    for state in LIVE:
        assert any(state in sources and targets & TERMINAL for sources, targets in TRANSITIONS.values()), state
