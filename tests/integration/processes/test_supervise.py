"""Real child processes under `Supervised`."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from headrace.supervise import EX_CONFIG, ChildMisconfigured, Supervised, ending
from headrace.testing.eventually import eventually

ANNOUNCE = "import os, sys, time; open(sys.argv[1], 'a').write(f'{os.getpid()}\\n'); "
PARENT_WATCH = "from headrace.supervise import stop_with_parent; stop_with_parent(); "


def pids(file: Path) -> list[int]:
    return [int(line) for line in file.read_text().split()] if file.exists() else []


def runs(pid: int) -> bool:
    """An orphan is adopted by init, or by a reaper that may leave it as a zombie: then it runs no more either."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] not in "ZX"
    except FileNotFoundError:
        return False


def child(code: str, file: Path) -> list[str]:
    return [sys.executable, "-c", code, str(file)]


async def test_a_killed_child_is_started_again_and_its_death_reported(tmp_path: Path) -> None:
    file, deaths = tmp_path / "pids", list[tuple[int, str]]()

    async def on_death(start: int, code: int) -> None:
        deaths.append((start, ending(code)))

    supervised = Supervised("sleeper", lambda _: child(ANNOUNCE + "time.sleep(60)", file), on_death=on_death)
    running = asyncio.ensure_future(supervised.run())

    async def first() -> list[int]:
        return pids(file)

    async def second() -> bool:
        return len(pids(file)) == 2

    [pid] = await eventually(first, pause=0.01)
    os.kill(pid, signal.SIGKILL)
    await eventually(second, pause=0.01)
    assert deaths == [(0, "SIGKILL")]
    await supervised.stop(grace=5)
    await running
    for pid in pids(file):
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


async def test_it_is_steady_once_it_has_lived_long_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headrace.supervise.STEADY_S", 1.0)
    file, steady = tmp_path / "pids", list[int]()
    short_then_long = "time.sleep(60 if os.path.getsize(sys.argv[1]) > 20 else 0)"  # the first lives leave a pid each
    supervised = Supervised("sleeper", lambda _: child(ANNOUNCE + short_then_long, file), on_steady=steady.append)
    running = asyncio.ensure_future(supervised.run())

    async def told() -> list[int]:
        return steady

    await eventually(told, pause=0.01)
    await supervised.stop(grace=5)
    await running
    assert steady == [supervised.restarts]
    assert supervised.restarts > 0


async def test_a_child_that_ends_by_itself_is_reported_and_started_again(tmp_path: Path) -> None:
    """However cleanly: somebody counted on it."""
    file, starts, deaths = tmp_path / "pids", list[int](), list[int]()

    async def on_death(start: int, code: int) -> None:
        assert ending(code) == "exit code 0"
        deaths.append(start)

    supervised = Supervised("brief", lambda _: child(ANNOUNCE, file), on_start=starts.append, on_death=on_death)
    running = asyncio.ensure_future(supervised.run())

    async def twice() -> bool:
        return len(deaths) == 2

    await eventually(twice, pause=0.01)
    await supervised.stop(grace=5)
    await running
    assert deaths[:2] == starts[:2] == [0, 1]


async def test_a_child_is_nudged_and_told_to_stop_through_one_pipe(tmp_path: Path) -> None:
    file = tmp_path / "said"
    nudged = (
        "import sys, time; from headrace.supervise import stop_with_parent; turn = stop_with_parent(); "
        "open(sys.argv[1], 'a').write('ready '); turn.result(); open(sys.argv[1], 'a').write('nudged'); time.sleep(60)"
    )
    supervised = Supervised("nudged", lambda _: child(nudged, file))
    running = asyncio.ensure_future(supervised.run())

    async def says(words: str) -> bool:
        return file.exists() and file.read_text() == words

    await eventually(lambda: says("ready "), pause=0.01)
    supervised.nudge()
    supervised.nudge()
    await eventually(lambda: says("ready nudged"), pause=0.01)
    await supervised.stop(grace=5)
    await running


async def test_what_a_killed_child_had_started_goes_with_it(tmp_path: Path) -> None:
    file = tmp_path / "pids"
    code = ANNOUNCE + "import subprocess; subprocess.run([sys.executable, '-c', sys.argv[0] + 'time.sleep(60)', sys.argv[1]])"
    supervised = Supervised("parent", lambda _: [sys.executable, "-c", code.replace("sys.argv[0]", repr(ANNOUNCE)), str(file)])
    running = asyncio.ensure_future(supervised.run())

    async def both() -> bool:
        return len(pids(file)) >= 2

    async def gone() -> bool:
        return not runs(grandchild)

    await eventually(both, pause=0.01)
    child_pid, grandchild = pids(file)[:2]
    os.kill(child_pid, signal.SIGKILL)
    await eventually(gone, pause=0.01)
    await supervised.stop(grace=5)
    await running


async def test_exit_code_78_is_not_tried_again(tmp_path: Path) -> None:
    log = tmp_path / "log"
    supervised = Supervised(
        "wrong", lambda _: [sys.executable, "-c", f"import sys; sys.stderr.write('no such model\\n'); sys.exit({EX_CONFIG})"], log=log
    )
    with pytest.raises(ChildMisconfigured, match="no such model"):
        await supervised.run()


async def test_a_child_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    file = tmp_path / "pids"
    stubborn = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + ANNOUNCE + "time.sleep(60)"
    supervised = Supervised("stubborn", lambda _: child(stubborn, file))
    running = asyncio.ensure_future(supervised.run())

    async def started() -> list[int]:
        return pids(file)

    await eventually(started, pause=0.01)
    await supervised.stop(grace=0.1)
    await running


async def test_a_child_stops_when_its_parent_is_killed(tmp_path: Path) -> None:
    file = tmp_path / "pids"
    middle = (
        "import asyncio, sys; from headrace.supervise import Supervised; "
        f"asyncio.run(Supervised('c', lambda _: [sys.executable, '-c', {PARENT_WATCH + ANNOUNCE + 'time.sleep(60)'!r}, sys.argv[1]]).run())"
    )
    parent = await asyncio.create_subprocess_exec(*child(middle, file))

    async def started() -> list[int]:
        return pids(file)

    [pid] = await eventually(started, pause=0.01)
    parent.kill()
    await parent.wait()

    async def gone() -> bool:
        return not runs(pid)

    await eventually(gone, pause=0.01)
