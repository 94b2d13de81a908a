"""A server of a command's own, with a stand-in for `headrace up`: the stages of its life, and the ends it can come to."""

import fcntl
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx
import pytest

from headrace.cli.own_server import OwnServer
from headrace.errors import HeadraceError


@pytest.fixture
def lock(tmp_path: Path) -> Iterator[int]:
    descriptor = os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    yield descriptor
    os.close(descriptor)


def stand_in(port: int, _data_dir: Path, _model: str | None) -> list[str]:
    return [sys.executable, "-m", "tests.integration.cli.fake_api", "--port", str(port)]


def misconfigured(_port: int, _data_dir: Path, model: str | None) -> Sequence[str]:
    return [sys.executable, "-c", f"print('starting'); print('headrace: no model {model}', flush=True); raise SystemExit(1)"]


class Said(list[str]):
    """What was said, and each phase."""

    def __call__(self, message: str) -> None:
        self.append(message)


def pid_of(server: OwnServer) -> int:
    assert server.process is not None
    return server.process.pid


def test_it_answers_while_entered(tmp_path: Path, lock: int) -> None:
    said = Said()
    with OwnServer(tmp_path / "data", model=None, lock=lock, phase=said, say=said, command=stand_in) as server:
        assert httpx.get(f"{server.locate()}/ready").is_success
        pid = pid_of(server)
    assert said == ["starting a server", "stopping the server"]
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_it_is_started_again_on_the_same_data(tmp_path: Path, lock: int) -> None:
    said, folders = Said(), set()

    def command(port: int, data_dir: Path, model: str | None) -> list[str]:
        folders.add(data_dir)
        return stand_in(port, data_dir, model)

    with OwnServer(tmp_path / "data", model=None, lock=lock, phase=said, say=said, command=command) as server:
        server.locate()
        os.kill(pid_of(server), signal.SIGKILL)
        assert server.process is not None
        server.process.wait()
        assert httpx.get(f"{server.locate()}/ready").is_success
    assert "the server ended unexpectedly and is started again" in said
    assert folders == {tmp_path / "data"}


def test_one_that_cannot_start_says_why(tmp_path: Path, lock: int) -> None:
    server = OwnServer(tmp_path / "data", model="nobody", lock=lock, phase=Said(), say=Said(), command=misconfigured)
    with pytest.raises(HeadraceError, match="its own server did not start: no model nobody"), server:
        pass


def test_an_interrupt_while_it_starts_is_told(tmp_path: Path, lock: int) -> None:
    def interrupted(*_: object) -> list[str]:
        raise KeyboardInterrupt

    said = Said()
    server = OwnServer(tmp_path / "data", model=None, lock=lock, phase=said, say=said, command=interrupted)
    with pytest.raises(KeyboardInterrupt), server:
        pass
    assert said == ["starting a server", "stopping the server"]


def test_its_folder_must_be_writable(tmp_path: Path, lock: int) -> None:
    (tmp_path / "data").write_text("a file is in the way")
    with pytest.raises(HeadraceError, match="choose another folder with --data-dir"), own(tmp_path, lock):
        pass


def own(tmp_path: Path, lock: int) -> OwnServer:
    return OwnServer(tmp_path / "data", model=None, lock=lock, phase=Said(), say=Said(), command=stand_in)


def test_it_takes_nothing_over_from_a_server_elsewhere(tmp_path: Path, lock: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that is meant for production would run the lines, and its data would outlive the run."""
    monkeypatch.setenv("HEADRACE_REDIS_URL", "redis://production:6379/0")
    monkeypatch.setenv("HEADRACE_MAX_RUNNING", "3")
    shows = "import os; print(sorted(name for name in os.environ if name.startswith('HEADRACE_')), flush=True)"
    server = OwnServer(tmp_path / "data", model=None, lock=lock, phase=Said(), say=Said(), command=lambda *_: [sys.executable, "-c", shows])
    with pytest.raises(HeadraceError) as ended, server:
        pass
    assert "HEADRACE_MAX_RUNNING" in str(ended.value)
    assert "HEADRACE_REDIS_URL" not in str(ended.value)


def test_the_lock_is_held_as_long_as_the_server_lives(tmp_path: Path, lock: int) -> None:
    """Whoever comes after a run that was killed must not meet its server on the same data."""
    server = own(tmp_path, lock).__enter__()
    try:
        other = os.open(tmp_path / "lock", os.O_RDWR)
        os.close(lock)
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        server.__exit__(None, None, None)
    fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(other)
    os.dup2(os.open(tmp_path / "lock", os.O_RDWR), lock)
