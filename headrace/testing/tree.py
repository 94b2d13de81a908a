"""A real `headrace up` in a folder of its own, for end-to-end tests: start it, find its processes, kill them, stop it."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from headrace.testing.queue_environ import queue_environ

READY_WITHIN_S = 150.0
POLL_S = 0.05
ENGINE = ("workers", "engine")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass(frozen=True)
class Tree:
    """A running tree. Its store answers at `redis_url`, its API at `url`."""

    process: psutil.Process
    url: str
    data_dir: Path

    @property
    def socket_path(self) -> Path:
        return next(self.data_dir.glob("valkey/*.sock"))

    def pids(self, *words: str) -> list[int]:
        """Processes of the tree whose command line has all these words, e.g. ("producer_api",) or ("workers", "engine")."""
        found = []
        for child in self.process.children(recursive=True):
            try:
                command = child.cmdline()
            except psutil.NoSuchProcess:
                continue
            if all(any(word in part for part in command) for word in words):
                found.append(child.pid)
        return found

    def kill(self, *words: str) -> list[int]:
        """kill -9 every process that `pids` finds; at least one must be there."""
        pids = self.pids(*words)
        if not pids:
            raise LookupError(f"no process of the tree matches {words}")
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        return pids

    def wait_until_ready(self) -> None:
        """Requests are taken, and an engine that lives is there to run them."""
        give_up_at = time.monotonic() + READY_WITHIN_S
        while time.monotonic() < give_up_at:
            if not self.process.is_running():
                raise RuntimeError("the tree ended before it was ready")
            if self._ready():
                return
            time.sleep(POLL_S)
        raise TimeoutError(f"not ready after {READY_WITHIN_S} s:\n{self.logs()}")

    def logs(self) -> str:
        return "\n".join(f"== {log.name}\n{log.read_text()[-4_000:]}" for log in sorted((self.data_dir / "logs").glob("*.log")))

    def _ready(self) -> bool:
        try:
            if not httpx.get(f"{self.url}/ready").is_success:
                return False
            workers = httpx.get(f"{self.url}/health").json()["workers"]
        except httpx.TransportError:
            return False
        engines = set(self.pids(*ENGINE))
        return any(worker["pid"] in engines for worker in workers)


@contextmanager
def running_tree(data_dir: Path, environ: Mapping[str, str] | None = None, *, port: int | None = None) -> Iterator[Tree]:
    """Start a tree, wait until it is ready, stop it with SIGTERM. Raises if it leaves a process behind, or ends neither cleanly nor by the
    test's own kill -9."""
    port = port or free_port()
    command = [sys.executable, "-m", "headrace", "up", "--port", str(port), "--data-dir", str(data_dir)]
    started = subprocess.Popen(command, env={**os.environ, **queue_environ(data_dir), **(environ or {})}, stdin=subprocess.DEVNULL)
    tree = Tree(psutil.Process(started.pid), f"http://127.0.0.1:{port}", data_dir)
    try:
        tree.wait_until_ready()
        yield tree
    finally:
        family = tree.process.children(recursive=True)
        started.terminate()
        code = started.wait(timeout=60)
        left = [process for process in family if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]
        for process in left:
            process.kill()
    if code not in (0, -signal.SIGKILL) or left:
        raise RuntimeError(f"headrace up ended with {code} and left {left} behind")
