"""What `headrace up` shows of a start that takes long."""

from pathlib import Path

from headrace.cli.worker_log import WorkerLog

LINES = (
    "2026-01-02 03:04:05,678 INFO engine[12] workers.backends.build: the engine is paged",
    "2026-01-02 03:04:06,678 INFO engine[12] workers.engine.cpu.kernel_store: compiling kernels into /x: once",
    "2026-01-02 03:04:07,678 WARNING worker[11] workers.supervisor: w-0 died: SIGKILL",
    "Traceback (most recent call last):",
)


def test_the_last_that_the_engine_said(tmp_path: Path) -> None:
    path = tmp_path / "workers.log"
    log = WorkerLog(path)
    assert log.last() is None
    path.write_text("\n".join(LINES[:1]))
    assert log.last() == "the engine is paged"
    path.write_text("\n".join(LINES))
    assert log.last() == "compiling kernels into /x: once"


def test_an_earlier_run_said_nothing_of_this_one(tmp_path: Path) -> None:
    path = tmp_path / "workers.log"
    path.write_text("\n".join(LINES) + "\n")
    log = WorkerLog(path)
    assert log.last() is None
    with path.open("a") as end:
        end.write(LINES[0] + "\n")
    assert log.last() == "the engine is paged"


def test_of_a_long_log_only_the_end_is_read(tmp_path: Path) -> None:
    path = tmp_path / "workers.log"
    path.write_text(LINES[0] + "\n" + (LINES[2] + "\n") * 1_000)
    log = WorkerLog(path)
    with path.open("a") as end:
        end.write((LINES[2] + "\n") * 1_000 + LINES[1] + "\n")
    assert log.last() == "compiling kernels into /x: once"
