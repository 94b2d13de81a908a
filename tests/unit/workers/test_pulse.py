"""What counts as alive, and how long nothing may be felt of it."""

import asyncio
import os
import threading

from headrace.testing.eventually import eventually
from workers.backends.scripted import ScriptedEngine
from workers.engine_thread import EngineThread
from workers.pulse import BEAT_S, LOOK_S, MEDIANS, Patience, Pulse, Watch, beating

PATIENCE = Patience(start=100.0, step=10.0)


def seconds_until_it_hangs(watch: Watch, beats: int, median_step_s: float = 0.0) -> float:
    """From the last beat, which may have come right after a look, and another beat before the engine stood still."""
    for look in range(1, 10_000):
        if watch.hangs(beats, median_step_s, LOOK_S):
            return BEAT_S + LOOK_S + look * LOOK_S
    raise AssertionError("it never hangs")


def test_what_beats_lives() -> None:
    watch = Watch(PATIENCE, 0)
    assert not any(watch.hangs(beats, 0.0, LOOK_S) for beats in range(10_000))


def test_what_stands_still_hangs_within_the_patience_for_a_step() -> None:
    watch = Watch(PATIENCE, 0)
    assert not watch.hangs(1, 0.0, LOOK_S)
    assert 9.5 < seconds_until_it_hangs(watch, 1) <= 10.0
    assert 9.0 < watch.still_s <= 10.0
    watch.hangs(2, 0.0, LOOK_S)
    assert watch.still_s == 0.0


def test_what_has_not_begun_to_beat_may_take_longer() -> None:
    assert 99.5 < seconds_until_it_hangs(Watch(PATIENCE, 7), 7) <= 100.0


def test_long_steps_may_take_longer() -> None:
    watch = Watch(PATIENCE, 0)
    watch.hangs(1, 2.0, LOOK_S)
    assert MEDIANS * 2.0 - 0.5 < seconds_until_it_hangs(watch, 1, 2.0) <= MEDIANS * 2.0


def test_one_beat_makes_up_for_all() -> None:
    watch = Watch(PATIENCE, 0)
    for beats in range(1, 50):
        watch.hangs(beats, 0.0, LOOK_S)
        assert not watch.hangs(beats, 0.0, 9.0)


def test_a_supervisor_that_was_stopped_itself_does_not_kill() -> None:
    watch = Watch(PATIENCE, 0)
    watch.hangs(1, 0.0, LOOK_S)
    assert not watch.hangs(1, 0.0, 3_600.0)


class StuckEngine(ScriptedEngine):
    def __init__(self) -> None:
        super().__init__()
        self.go_on = threading.Event()

    def open(self) -> None:
        self.go_on.wait(20)


async def test_beats_stop_while_the_engine_is_stuck_in_a_call_and_come_again() -> None:
    pulse, thread = Pulse.create(), EngineThread(engine := StuckEngine())

    async def beats(by: int) -> bool:
        return pulse.beats >= seen + by

    async with beating(pulse, thread):
        seen = 0
        await eventually(lambda: beats(3), pause=0.01)
        stuck = asyncio.ensure_future(thread.open())
        await asyncio.sleep(0)
        seen = pulse.beats
        await asyncio.sleep(0.35)
        assert pulse.beats <= seen + 1  # the one that noticed that the call began
        seen = pulse.beats
        engine.go_on.set()
        await stuck
        await eventually(lambda: beats(2), pause=0.01)
    thread.close()
    pulse.close()


async def test_steps_are_timed() -> None:
    thread = EngineThread(ScriptedEngine())
    assert thread.median_step_s == 0.0
    await thread.turn([], [])
    assert thread.median_step_s > 0.0
    thread.close()


def test_both_sides_see_the_same() -> None:
    pulse = Pulse.create()
    other = Pulse(os.dup(pulse.fd))
    assert (pulse.beats, pulse.median_step_s) == (0, 0.0)
    other.beat(0.5)
    other.beat(0.25)
    assert (pulse.beats, pulse.median_step_s) == (2, 0.25)
    other.close()
    pulse.close()
