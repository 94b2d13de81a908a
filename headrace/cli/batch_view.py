"""How a batch is doing, on a terminal or in a log: a bar that moves, or a line now and then."""

import time
from collections import deque
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from headrace.batch import BatchStatus

WINDOW_S = 30.0
"""Speeds are those of the last half minute: what was done before a pause, or by an earlier run, says nothing of when this ends."""
LINE_EVERY_S = 10.0
ETA_AFTER = 3
"""Lines that must have ended while somebody looked: one or two say little of the others."""
_FAULTS_SHOWN = 20
CUT_SHORT = frozenset({BatchStatus.CANCELLING, BatchStatus.CANCELLED, BatchStatus.EXPIRED})
"""Their counts of failed lines hold those that were never run."""


def progress_of(batch: dict[str, Any]) -> tuple[int, str]:
    """How many lines of a batch object are done with, and what became of the ones without an answer."""
    counts = batch["request_counts"]
    if batch["status"] in CUT_SHORT:
        return counts["completed"], f"{counts['failed']} failed or not run"
    return counts["completed"] + counts["failed"], f"{counts['failed']} failed"


class Pace:
    """Speed from what was seen when. Times are seconds of any one clock."""

    def __init__(self, window_s: float = WINDOW_S) -> None:
        self._window_s = window_s
        self._seen: deque[tuple[float, int, int]] = deque()
        self._lines_at_first = 0

    def observe(self, now: float, lines: int, tokens: int) -> None:
        if not self._seen:
            self._lines_at_first = lines
        self._seen.append((now, lines, tokens))
        while len(self._seen) > 2 and self._seen[1][0] <= now - self._window_s:
            self._seen.popleft()

    @property
    def tokens_per_s(self) -> float:
        return self._speed(2)

    def left_s(self, lines: int) -> float | None:
        """Seconds until so many more lines are done; None: at the present pace never, or it is too early to tell."""
        speed = self._speed(1)
        return lines / speed if speed and self._seen[-1][1] - self._lines_at_first >= ETA_AFTER else None

    def _speed(self, column: int) -> float:
        if len(self._seen) < 2:
            return 0.0
        first, last = self._seen[0], self._seen[-1]
        return (last[column] - first[column]) / (last[0] - first[0]) if last[0] > first[0] else 0.0


class BatchView:
    """Entered while there is something to watch. `clock` is in seconds."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._began = clock()
        self._pace = Pace()
        self._told_at = self._began
        self._told = ""
        columns = (
            *(SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[details]}")),
            *(TimeElapsedColumn(), TextColumn("{task.fields[left]}")),
        )
        self._bar = Progress(*columns, console=console, disable=not console.is_terminal, transient=True)
        self._task = self._bar.add_task("", total=None, visible=False, details="", left="")

    def __enter__(self) -> "BatchView":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def say(self, message: str) -> None:
        """Something that stays on the screen."""
        self._console.print(message, highlight=False, markup=False, soft_wrap=True)

    def phase(self, what: str) -> None:
        """What goes on while there is no batch to show."""
        self._bar.update(self._task, visible=True, description=what, details="", left="")
        if not self._console.is_terminal and what != self._told:
            self.say(f"{what} …")
        self._told = what

    def show(self, batch: dict[str, Any]) -> None:
        """A batch object, as it was just read."""
        now = self._clock()
        status, total = batch["status"], batch["request_counts"]["total"]
        done, others = progress_of(batch)
        self._pace.observe(now, done, (batch.get("usage") or {}).get("output_tokens", 0))
        details = self._details(status, done, others) if total else ""
        left_s = self._pace.left_s(total - done)
        left = f"ETA {_duration(left_s)}" if left_s and status == BatchStatus.IN_PROGRESS else ""
        self._bar.update(self._task, visible=True, description=status, total=total or None, completed=done, details=details, left=left)
        if self._console.is_terminal or status == BatchStatus.FAILED:  # `refused` says why
            return
        if status != self._told or now - self._told_at >= LINE_EVERY_S:
            self._told, self._told_at = status, now
            elapsed = f"{_duration(now - self._began)} elapsed"
            lines = f"{status}: {done}/{total} lines" if total else status
            self.say(" · ".join(part for part in (lines, details, elapsed, left) if part))

    def _details(self, status: str, done: int, others: str) -> str:
        if status == BatchStatus.IN_PROGRESS and not done:
            # Tokens are counted with the line they end.
            return "none has ended yet, the first take a while"
        speed = self._pace.tokens_per_s
        return f"{others} · {speed:.0f} tokens/s" if speed else others

    def refused(self, batch: dict[str, Any]) -> None:
        """Why a batch was refused, the first of the reasons; nothing of one that was not."""
        faults = (batch.get("errors") or {}).get("data") or []
        if not faults:
            return
        self.say(f"refused: {len(faults)} problem{'s' if len(faults) > 1 else ''}")
        if len(faults) > 1 and len({(fault.get("message"), fault.get("code")) for fault in faults}) == 1:
            self.say(f"{len(faults)} times, first in line {faults[0].get('line')}: {faults[0].get('message')} ({faults[0].get('code')})")
            return
        for fault in faults[:_FAULTS_SHOWN]:
            where = "" if fault.get("line") is None else f"line {fault['line']}: "
            self.say(f"{where}{fault.get('message')} ({fault.get('code')})")
        if len(faults) > _FAULTS_SHOWN:
            self.say(f"… and {len(faults) - _FAULTS_SHOWN} more")


def _duration(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
