"""A `headrace up` of a command's own: on a free loopback port, stopped at its end, and started again if it dies before.

It holds what it was given (`lock`, and a pipe as its standard input) for as long as it lives: the pipe ends when its parent dies, however
that comes, and stops it; whoever comes next waits for the lock until it has.
"""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

import httpx

from headrace.errors import HeadraceError

RETRY_WITHIN_S = 60.0
"""Processes that a killed tree leaves behind hold its data for seconds: a start that fails after one is tried again."""
STOP_WITHIN_S = 90.0
_LOOK_S = 0.1
_RETRY_S = 1.0

#: Settings of the server that the user runs elsewhere; its own takes none of them over.
_NOT_INHERITED = frozenset({"HOST", "PORT", "SCHEDULER_PORT", "REDIS_URL", "QUEUE_URL", "RQ_URL", "FILES_DIR", "API_URL", "KEYS_FILE"})

Command = Callable[[int, Path, str | None], Sequence[str]]
"""Makes the command from port, data folder and model."""


def headrace_up(port: int, data_dir: Path, model: str | None) -> list[str]:
    where = ["--host", "127.0.0.1", "--port", str(port), "--data-dir", str(data_dir)]
    return [sys.executable, "-m", "headrace", "up", "--supervised", *where, *([] if model is None else ["--model", model])]


class OwnServer:
    """Entered: it answers. Left: it has stopped."""

    def __init__(
        self,
        data_dir: Path,
        *,
        model: str | None,
        lock: int,
        phase: Callable[[str], None],
        say: Callable[[str], None],
        command: Command = headrace_up,
    ) -> None:
        self._data_dir = data_dir
        self._model = model
        self._lock = lock
        self._phase = phase
        self._say = say
        self._command = command
        self.process: subprocess.Popen[bytes] | None = None
        """The one that runs, or ran last; None before and after."""
        self._url = ""

    @property
    def log(self) -> Path:
        return self._data_dir / "logs" / "up.log"

    def __enter__(self) -> "OwnServer":
        self._phase("starting a server")
        try:
            self._start()
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                self._phase("stopping the server")
            self._stop()
            raise
        return self

    def __exit__(self, _type: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None) -> None:
        self._phase("stopping the server")
        self._stop()

    def locate(self) -> str:
        """Its URL; if it has died, that of the next one. Raises HeadraceError if none can be started."""
        if self.process is None or self.process.poll() is not None:
            self._revive()
        return self._url

    def _revive(self) -> None:
        self._say("the server ended unexpectedly and is started again")
        give_up_at = time.monotonic() + RETRY_WITHIN_S
        while True:
            try:
                self._start()
                return
            except HeadraceError:
                if time.monotonic() > give_up_at:
                    raise
            time.sleep(_RETRY_S)

    def _start(self) -> None:
        """Returns once the API answers, which says nothing of the model yet. Raises HeadraceError if the tree ends before."""
        port = _free_port()
        self._url = f"http://127.0.0.1:{port}"
        try:
            self.log.parent.mkdir(parents=True, exist_ok=True)
            with self.log.open("ab") as log:
                begins = log.tell()
                process = subprocess.Popen(
                    self._command(port, self._data_dir, self._model),
                    env=_environment(),
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    pass_fds=(self._lock,),
                    # Ctrl-C in a terminal goes to a whole process group; this one is stopped by SIGTERM, once.
                    start_new_session=True,
                )
        except OSError as error:
            raise HeadraceError(
                f"cannot start a server on {self._data_dir} ({error.strerror}); choose another folder with --data-dir"
            ) from None
        self._forget_process()
        self.process = process
        with httpx.Client(base_url=self._url, timeout=2.0, trust_env=False) as client:
            while not _answers(client):
                if process.poll() is not None:
                    raise HeadraceError(f"its own server did not start: {self._last_words(begins)}")
                time.sleep(_LOOK_S)

    def _stop(self) -> None:
        process = self.process
        if process is None:
            return
        process.terminate()
        try:
            process.wait(STOP_WITHIN_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self._forget_process()

    def _forget_process(self) -> None:
        if self.process is not None and self.process.stdin is not None:
            self.process.stdin.close()
        self.process = None

    def _last_words(self, begins: int) -> str:
        with self.log.open("rb") as log:
            log.seek(begins)
            lines = [line for line in log.read().decode(errors="replace").splitlines() if line.strip()]
        return lines[-1].removeprefix("headrace: ") if lines else f"it said nothing; see {self.log.parent}"


def _environment() -> dict[str, str]:
    dropped = {f"HEADRACE_{name}" for name in _NOT_INHERITED}
    return {name: value for name, value in os.environ.items() if name.upper() not in dropped}


def _answers(client: httpx.Client) -> bool:
    try:
        client.get("/ready")
    except httpx.TransportError:
        return False
    return True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
