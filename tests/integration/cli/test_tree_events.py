"""What a tree says when its embedded store dies, on a real server."""

import asyncio
import errno
import io
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import RedisError
from rich.console import Console

from headrace.cli.events import Events
from headrace.cli.living_valkey import living_valkey
from headrace.embedded import EmbeddedValkey, find_binary
from headrace.testing.eventually import eventually

#: The server may write no file longer than 64 blocks, and is told so by the failing write, as with a full disk.
SMALL_DISK = "#!/bin/sh\ntrap '' XFSZ\nulimit -f 64\nexec {server} \"$@\"\n"


class Room:
    """A console and a log."""

    def __init__(self, log: Path) -> None:
        self.shown = io.StringIO()
        self.log = log
        self.events = Events(Console(file=self.shown, width=40), log)

    async def told(self, words: str) -> list[str]:
        """What the log holds, without the times, once the words are in it."""

        async def look() -> bool:
            return self.log.exists() and words in self.log.read_text()

        await eventually(look, within=60, pause=0.05)
        return [line.split(" ", 2)[2] for line in self.log.read_text().splitlines()]


class Full(io.StringIO):
    """A console whose output goes to a disk without room."""

    def write(self, _text: str) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def pid_of(folder: Path) -> int:
    return int((folder / "lock").read_text().split()[0])


def kill(folder: Path) -> None:
    os.kill(pid_of(folder), signal.SIGKILL)


@pytest.fixture
def room(tmp_path: Path) -> Room:
    return Room(tmp_path / "tree.log")


async def test_a_killed_store_is_told_with_its_signal_and_its_return(tmp_path_factory: pytest.TempPathFactory, room: Room) -> None:
    folder = tmp_path_factory.mktemp("v")
    async with living_valkey(folder, room.events):
        kill(folder)
        died, back = await room.told("answers again")
    assert died == f"Valkey ended unexpectedly (SIGKILL) and is started again; see {folder / 'valkey.log'}"
    assert back == "Valkey answers again"
    assert room.shown.getvalue().splitlines() == [died, back]


async def test_a_store_that_hangs_is_killed_and_loses_nothing(
    tmp_path_factory: pytest.TempPathFactory, room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headrace.cli.living_valkey.PING_S", 0.2)
    monkeypatch.setattr("headrace.cli.living_valkey.HANGS_S", 2.0)
    folder = tmp_path_factory.mktemp("v")
    async with living_valkey(folder, room.events) as url:
        with Redis.from_url(url) as store:
            store.set("acknowledged", 1)
        hung = pid_of(folder)
        os.kill(hung, signal.SIGSTOP)
        stopped = time.monotonic()
        died, back = await room.told("answers again")
        assert time.monotonic() - stopped > 1.5
        with Redis.from_url(url) as store:
            assert store.get("acknowledged") == b"1"
        assert pid_of(folder) != hung
        with pytest.raises(ProcessLookupError):
            os.kill(hung, 0)
    assert died == f"Valkey has not answered for 2 s: it is killed and started again; see {folder / 'valkey.log'}"
    assert back == "Valkey answers again"


async def test_a_store_that_only_pauses_is_left_alone(
    tmp_path_factory: pytest.TempPathFactory, room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headrace.cli.living_valkey.PING_S", 0.1)
    folder = tmp_path_factory.mktemp("v")
    async with living_valkey(folder, room.events) as url:
        paused = pid_of(folder)
        os.kill(paused, signal.SIGSTOP)
        await asyncio.sleep(1.0)  # several pings go unanswered
        os.kill(paused, signal.SIGCONT)
        with Redis.from_url(url) as store:
            assert store.ping()
        assert pid_of(folder) == paused
    assert not room.log.exists()


async def test_a_start_that_fails_again_and_again_is_told_once(
    tmp_path_factory: pytest.TempPathFactory, room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headrace.cli.living_valkey.STORE_RETRY_S", 0.01)
    folder = tmp_path_factory.mktemp("v")
    failures = 0
    start = EmbeddedValkey.start

    def failing(server: EmbeddedValkey) -> None:
        nonlocal failures
        if 0 < failures < 5:
            failures += 1
            raise OSError("No space left on device")
        failures += 1
        start(server)

    monkeypatch.setattr(EmbeddedValkey, "start", failing)
    async with living_valkey(folder, room.events):
        kill(folder)
        said = await room.told("answers again")
    assert [line.split(":")[0].split(" (")[0] for line in said] == [
        "Valkey ended unexpectedly",
        "Valkey cannot be started again yet",
        "Valkey answers again",
    ]


def test_the_last_words_of_a_server_without_room_name_the_reason(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("v")
    binary = folder / "server"
    binary.write_text(SMALL_DISK.format(server=find_binary()))
    binary.chmod(0o700)
    server = EmbeddedValkey(folder / "data", binary=binary)
    server.start()
    with Redis.from_url(server.url) as store, pytest.raises(RedisError):
        store.mset({f"key-{number}": "x" * 100 for number in range(1_000)})
    assert server.process.wait(10) == 1
    assert "writing to the AOF file" in server.last_words()
    assert "Exiting" in server.last_words()
    assert "\n" not in server.last_words()


def test_without_room_for_the_log_the_console_still_has_it_and_nobody_stops(room: Room) -> None:
    room.log.mkdir()
    room.events.tell("[a] died", style="red")
    assert room.shown.getvalue() == "[a] died\n"
    shutil.rmtree(room.log)
    room.events = Events(Console(file=Full()), room.log)
    room.events.tell("b died", style="red")
    assert room.log.read_text().endswith(" b died\n")
