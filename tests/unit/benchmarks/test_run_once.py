"""A runner's process, from its start to its line of JSON, with runners that are scripts of a few lines."""

import asyncio
import importlib.util
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import psutil
import pytest

from benchmarks import engine
from benchmarks.engine import run_once
from benchmarks.entrant import Entrant
from benchmarks.item import Item, read_items, write_items
from headrace.testing.eventually import eventually


@pytest.fixture
def runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of a module `runner`, which the test fills."""
    monkeypatch.setattr(engine, "ROOT", tmp_path)
    return tmp_path / "runner.py"


def _entrant() -> Entrant:
    return Entrant("vllm", "fp32", command=(sys.executable, "runner", "--flag"))


def test_its_line_is_found_among_what_libraries_print(runner: Path, tmp_path: Path) -> None:
    runner.write_text("import json, sys\nprint('hello')\nprint(json.dumps({'argv': sys.argv[1:]}))\nprint('(1) WARNING: bye')\nprint(0)")

    assert run_once(_entrant(), tmp_path, tmp_path / "work").line == {"argv": [str(tmp_path), str(tmp_path / "work"), "--flag"]}


def test_a_runner_that_fails_is_quoted(runner: Path, tmp_path: Path) -> None:
    runner.write_text("import sys\nsys.exit('no such model')")

    assert run_once(_entrant(), tmp_path, tmp_path).failed == "ended with 1: no such model"


def test_a_runner_without_a_line_has_failed(runner: Path, tmp_path: Path) -> None:
    runner.write_text("print('done')")

    assert run_once(_entrant(), tmp_path, tmp_path).failed == "ended without figures: done"


def test_a_runner_that_hangs_is_ended_with_what_it_started(runner: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "LIMIT_S", 2.0)
    runner.write_text(
        "import pathlib, subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        f"pathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(child.pid))\n"
        "child.wait()"
    )

    assert run_once(_entrant(), tmp_path, tmp_path).failed == "not done after 2 s"

    child = int((tmp_path / "pid").read_text())

    asyncio.run(eventually(_async(partial(_is_gone, child))))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_runner_with_what_it_started_and_leaves_no_folder(tmp_path: Path, number: signal.Signals) -> None:
    """The command as a process, whose engine is a script that never ends."""
    pids = tmp_path / "pids"
    (tmp_path / "runner.py").write_text(
        "import os, pathlib, subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        f"pathlib.Path({str(pids)!r} + '.new').write_text(f'{{os.getpid()}} {{child.pid}}')\n"
        f"pathlib.Path({str(pids)!r} + '.new').rename({str(pids)!r})\n"
        "child.wait()"
    )
    (tmp_path / "command.py").write_text(
        "import pathlib, sys\n"
        "from benchmarks import engine\n"
        "from benchmarks.entrant import Entrant\n"
        "from benchmarks.item import Item\n"
        f"engine.ROOT = folder = pathlib.Path({str(tmp_path)!r})\n"
        "engine.WORKLOADS = {'mix64': lambda folder: [Item((1,), 1)]}\n"
        "engine.ensure_folder = lambda spec, cache: folder\n"
        "engine.entrant = lambda name, options: Entrant(name, 'fp32', command=(sys.executable, 'runner'))\n"
        "sys.exit(engine.main())"
    )
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    environ = {**os.environ, "PYTHONPATH": str(Path(engine.__file__).parents[1]), "TMPDIR": str(scratch)}
    argv = [sys.executable, str(tmp_path / "command.py"), "--engines", "vllm"]
    with subprocess.Popen(argv, env=environ, stdout=subprocess.DEVNULL) as command:
        try:
            asyncio.run(eventually(_async(pids.exists), within=60.0))
            assert [folder.name.startswith("headrace-benchmark-") for folder in scratch.iterdir() if folder.is_dir()] == [True]
            command.send_signal(number)
            assert command.wait() == 128 + number
        finally:
            command.kill()
    for pid in map(int, pids.read_text().split()):
        asyncio.run(eventually(_async(partial(_is_gone, pid))))
    assert list(scratch.iterdir()) == []


def _async(look: Callable[[], bool]) -> Callable[[], Awaitable[bool]]:
    async def looked() -> bool:
        return look()

    return looked


def _is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_what_is_missing_is_not_started(tmp_path: Path) -> None:
    assert run_once(Entrant("vllm", "fp32", missing="no interpreter"), tmp_path, tmp_path).line == {"missing": "no interpreter"}


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vLLM is installed here")
def test_an_interpreter_without_vllm_says_so(tmp_path: Path) -> None:
    """With nothing of this project but its folder: what it needs, another environment may not have."""
    heat = run_once(Entrant("vllm", "fp32", command=(sys.executable, "benchmarks.engines.vllm")), tmp_path, tmp_path)

    assert heat.line == {"missing": f"{sys.executable} has no vLLM"}


def test_items_reach_the_runner_as_they_are(tmp_path: Path) -> None:
    items = [Item((1, 2, 3), 16), Item((), 1)]
    write_items(tmp_path / "work.json", items)

    assert read_items(tmp_path / "work.json") == items
