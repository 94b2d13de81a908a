"""How a batch is doing, on a terminal or in a log: a bar that moves, or a line now and then."""

import time
from collections import deque
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

WINDOW_S = 30.0
"""Speeds are those of the last half minute: what was done before a pause, or by an earlier run, says nothing of when this ends."""
LINE_EVERY_S = 10.0
_FAULTS_SHOWN = 20


class Pace:
    """Speed from what was seen when. Times are seconds of any one clock."""

    def __init__(self, window_s: float = WINDOW_S) -> None:
        self._window_s = window_s
        self._seen: deque[tuple[float, int, int]] = deque()

    def observe(self, now: float, lines: int, tokens: int) -> None:
        self._seen.append((now, lines, tokens))
        while len(self._seen) > 2 and self._seen[1][0] <= now - self._window_s:
            self._seen.popleft()

    @property
    def tokens_per_s(self) -> float:
        return self._speed(2)

    def left_s(self, lines: int) -> float | None:
        """Seconds until so many more lines are done; None: at the present pace, never."""
        speed = self._speed(1)
        return lines / speed if speed else None

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
        self._task = self._bar.add_task("", total=None, details="", left="")

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
        self._bar.update(self._task, description=what, details="", left="")
        if not self._console.is_terminal and what != self._told:
            self.say(f"{what} …")
        self._told = what

    def show(self, batch: dict[str, Any]) -> None:
        """A batch object, as it was just read."""
        now = self._clock()
        counts = batch["request_counts"]
        done = counts["completed"] + counts["failed"]
        self._pace.observe(now, done, (batch.get("usage") or {}).get("output_tokens", 0))
        details = f"{counts['failed']} failed · {self._pace.tokens_per_s:.0f} tokens/s"
        left_s = self._pace.left_s(counts["total"] - done)
        left = f"ETA {_duration(left_s)}" if left_s else ""
        status = batch["status"]
        self._bar.update(self._task, description=status, total=counts["total"] or None, completed=done, details=details, left=left)
        if self._console.is_terminal:
            return
        if status != self._told or now - self._told_at >= LINE_EVERY_S:
            self._told, self._told_at = status, now
            elapsed = f"{_duration(now - self._began)} elapsed"
            self.say(" · ".join(part for part in (f"{status}: {done}/{counts['total']} lines", details, elapsed, left) if part))

    def faults(self, batch: dict[str, Any]) -> None:
        """Why a batch was refused, the first of the reasons."""
        faults = (batch.get("errors") or {}).get("data") or []
        for fault in faults[:_FAULTS_SHOWN]:
            where = "" if fault.get("line") is None else f"line {fault['line']}: "
            self.say(f"{where}{fault.get('message')} ({fault.get('code')})")
        if len(faults) > _FAULTS_SHOWN:
            self.say(f"… and {len(faults) - _FAULTS_SHOWN} more")


def _duration(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
