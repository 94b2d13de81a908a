"""A child process that is started again whenever it dies: what `headrace up` and the worker's supervisor are made of.

    spawn → wait → told to stop?  yes: done
                 → exit code 78?  yes: starting again cannot help, raise ChildMisconfigured
                 → on_death → wait restart_delay → spawn

A child's standard input is a pipe that its parent holds open: however the parent dies, the pipe ends, and `stop_with_parent` stops the
child as SIGTERM would. (Linux's PR_SET_PDEATHSIG would need code between fork and exec, and other systems lack it.)
"""

import asyncio
import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO

from headrace.errors import HeadraceError

EX_CONFIG = 78
"""Exit code of a process whose settings or model are wrong (sysexits.h)."""

STEADY_S = 10.0
"""A child that lived this long is healthy: its next death starts the delays anew."""

REPORT_GRACE_S = 1.0
"""How long a stop waits for `on_death` calls that are still under way."""

_FIRST_DELAY_S = 0.25
_LONGEST_DELAY_S = 15.0


class ChildMisconfigured(HeadraceError):
    """The child says that its configuration is wrong; it is not started again."""


def restart_delay(short_lives: int) -> float:
    """Seconds to wait before a child is started again after `short_lives` lives in a row shorter than STEADY_S.

    The death of a steady child costs no delay: somebody waits for it.
    """
    if short_lives == 0:
        return 0.0
    return min(_FIRST_DELAY_S * 2.0 ** (short_lives - 1), _LONGEST_DELAY_S)


def ending(code: int) -> str:
    """How a process ended, in words, by what `returncode` says of it."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:  # a real-time signal
        return f"signal {-code}"


class Supervised:
    """One child process, kept alive.

    `argv` gives the command of the n-th start (0, 1, …). `on_start` is called, with that number, when that process is there. `on_death`
    runs after each death that was not ordered, with that number and the exit code (negative: the signal), beside the next start: recovery
    does not wait for it. `on_steady` is called, with that number, once a process has lived for STEADY_S. Output goes to `log`, or to the
    parent's own streams. The child inherits the descriptors `pass_fds`.
    """

    def __init__(
        self,
        name: str,
        argv: Callable[[int], Sequence[str]],
        *,
        env: Mapping[str, str] | None = None,
        log: Path | None = None,
        on_start: Callable[[int], None] | None = None,
        on_death: Callable[[int, int], Awaitable[None]] | None = None,
        on_steady: Callable[[int], None] | None = None,
        pass_fds: Sequence[int] = (),
    ) -> None:
        self.name = name
        self.restarts = 0
        self._argv = argv
        self._env = env
        self._log = log
        self._on_start = on_start
        self._on_death = on_death
        self._on_steady = on_steady
        self._pass_fds = pass_fds
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = asyncio.Event()
        self._reports: set[asyncio.Task[None]] = set()

    @property
    def lives(self) -> bool:
        return self._process is not None and self._process.returncode is None

    @property
    def stopping(self) -> bool:
        """`stop` was called."""
        return self._stopping.is_set()

    async def run(self) -> None:
        """Keep the child alive until `stop`. Raises ChildMisconfigured."""
        short_lives = 0
        while not self._stopping.is_set():
            started = time.monotonic()
            code = await self._live()
            if code == EX_CONFIG:
                raise ChildMisconfigured(f"{self.name} cannot run with this configuration" + self._last_line())
            if code != 0 or not self._stopping.is_set():
                self._report_death(self.restarts, code)
            if self._stopping.is_set():
                break
            short_lives = 0 if time.monotonic() - started >= STEADY_S else short_lives + 1
            self.restarts += 1
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), restart_delay(short_lives))
        await self._settle_reports()

    async def stop(self, grace: float) -> None:
        """SIGTERM, then SIGKILL after `grace` seconds. Returns when the child is gone."""
        self._stopping.set()
        process = self._process
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), grace)
        except TimeoutError:
            self.kill()
            await process.wait()

    def kill(self) -> None:
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    def nudge(self) -> None:
        """Resolves what `stop_with_parent` returned to the child that lives now. It need not have called it yet."""
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.write(b"\n")

    async def _live(self) -> int:
        with self._output() as out:
            self._process = await asyncio.create_subprocess_exec(
                *self._argv(self.restarts),
                env=self._env,
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=out and subprocess.STDOUT,
                # Ctrl-C in a terminal goes to a whole process group; children stop in the parent's order instead.
                start_new_session=True,
                pass_fds=self._pass_fds,
            )
        if self._on_start is not None:
            self._on_start(self.restarts)
        if self._stopping.is_set():  # stop() came while there was no process yet to tell
            self._process.terminate()
        code = await self._lived(self._process)
        # It led a session: what it started and could not end any more, such as the processes of a killed vLLM, goes with it. Children that
        # are supervised themselves lead sessions of their own, and stop in order.
        with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS's answer if only zombies are left
            os.killpg(self._process.pid, signal.SIGKILL)
        return code

    async def _lived(self, process: asyncio.subprocess.Process) -> int:
        if self._on_steady is None:
            return await process.wait()
        steady = asyncio.get_running_loop().call_later(STEADY_S, self._on_steady, self.restarts)
        try:
            return await process.wait()
        finally:
            steady.cancel()

    def _output(self) -> AbstractContextManager[BinaryIO | None]:
        return contextlib.nullcontext(None) if self._log is None else self._log.open("ab")

    def _report_death(self, start: int, code: int) -> None:
        if self._on_death is None:
            return
        report = asyncio.ensure_future(self._on_death(start, code))
        self._reports.add(report)
        report.add_done_callback(self._reports.discard)

    async def _settle_reports(self) -> None:
        if self._reports:
            _, late = await asyncio.wait(self._reports, timeout=REPORT_GRACE_S)
            for report in late:
                report.cancel()

    def _last_line(self) -> str:
        if self._log is None:
            return ""
        lines = [line for line in self._log.read_text(errors="replace").splitlines() if line.strip()]
        return f": {lines[-1]}" if lines else ""


def stop_with_parent(grace: float = 15.0) -> Future[None]:
    """Called by a supervised child: SIGTERM to itself when the parent's pipe ends, and a hard exit `grace` seconds later.

    Returns what is done once the parent calls `Supervised.nudge`.
    """
    nudged: Future[None] = Future()

    def watch() -> None:
        while os.read(0, 1):
            if not nudged.done():
                nudged.set_result(None)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(grace)
        os._exit(1)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()
    return nudged
