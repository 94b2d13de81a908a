"""A line below the text while nothing comes, on a terminal only.

The text may stop in the middle of a line, which the note must leave as it is: the cursor is saved there, the note goes to the line below,
and the next token erases whatever is below the cursor.
"""

import threading
import time
from types import TracebackType
from typing import Self

from rich.console import Console

QUIET_S = 2.0
"""Longer than the pauses of a server that works."""

_MAKE_ROOM = "\x1bD\x1b[A\x1b7"
"""Index, up, save: at the bottom of the screen this scrolls before the place is saved, which is absolute."""
_BELOW = "\x1bE"
_BACK = "\x1b8"
_ERASE_BELOW = "\x1b[J"


class WaitingNote:
    """Drawn by a thread of its own, as whoever reads the stream is blocked meanwhile."""

    def __init__(self, console: Console, quiet_s: float = QUIET_S) -> None:
        """`console`: of standard error, so that what is piped elsewhere is the text alone."""
        self._console = console
        self._quiet_s = quiet_s
        self._changed = threading.Condition()
        self._heard_at = time.monotonic()
        self._what = "the server"
        self._drawn: str | None = None
        self._over = False
        self._thread = threading.Thread(target=self._draw_when_due, name="waiting-note", daemon=True)

    def __enter__(self) -> Self:
        if self._console.is_terminal and not self._console.is_dumb_terminal:
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with self._changed:
            self._over = True
            self._erase()
            self._changed.notify()
        if self._thread.ident is not None:
            self._thread.join()

    def waits_for(self, what: str) -> None:
        """What the note says, from now on."""
        with self._changed:
            self._what = what
            self._changed.notify()

    def heard(self) -> None:
        """To be called before the text goes on: it is printed where the note was erased."""
        with self._changed:
            self._heard_at = time.monotonic()
            self._erase()
            self._changed.notify()

    def _draw_when_due(self) -> None:
        with self._changed:
            while not self._over:
                left = self._heard_at + self._quiet_s - time.monotonic()
                if left <= 0 and self._drawn != self._what:
                    self._draw()
                self._changed.wait(left if left > 0 else None)

    def _draw(self) -> None:
        self._erase()
        self._drawn = self._what
        line = f"waiting for {self._what}"[: self._console.width - 1]
        self._write(f"{_MAKE_ROOM}{_BELOW}{line}{_BACK}")

    def _erase(self) -> None:
        if self._drawn is not None:
            self._drawn = None
            self._write(_ERASE_BELOW)

    def _write(self, codes: str) -> None:
        # Past rich, which would take the codes out or wrap them.
        self._console.file.write(codes)
        self._console.file.flush()
