"""Event cursors: the `id:` of every SSE event, and the position a client resumes from.

3-57      the first event of log entry 57 of epoch 3
3-57.1    its second event
0-0       the role event, which no log entry holds
"""

import re
from typing import NamedTuple

from headrace.errors import CursorInvalid

# 15 digits keep every part exact in a Lua number (a double).
_CURSOR = re.compile(r"(0|[1-9][0-9]{0,14})-(0|[1-9][0-9]{0,14})(?:\.([1-9][0-9]{0,3}))?")


GENERATION_EPOCHS = 2**20
"""Epochs of one generation of the store: those of generation g are above g times this. No job is leased so often."""
MAX_GENERATION = 2**26 - 1
"""The last one whose epochs are exact in every store: a double has room for more, but Lua writes 14 digits."""


class LogPosition(NamedTuple):
    """Id of a token log entry: the epoch it was written under, and how many tokens are committed with it.

    Positions of a job's log only ever increase, across epochs too.
    """

    epoch: int
    n: int

    @property
    def generation(self) -> int:
        """Of the store that it was written to. A log has entries of one generation."""
        return self.epoch // GENERATION_EPOCHS

    def __str__(self) -> str:
        return f"{self.epoch}-{self.n}"


START = LogPosition(0, 0)
"""Before the first entry of any log."""


class Cursor(NamedTuple):
    """Position of one event: a log entry, and which of the entry's events (0 is the first)."""

    epoch: int
    n: int
    k: int = 0

    @property
    def entry(self) -> LogPosition:
        return LogPosition(self.epoch, self.n)

    def __str__(self) -> str:
        return f"{self.epoch}-{self.n}.{self.k}" if self.k else f"{self.epoch}-{self.n}"


ROLE = Cursor(0, 0)


def parse_cursor(text: str, *, param: str) -> Cursor:
    """Raises CursorInvalid, naming `param`, unless `text` is exactly a cursor as we print it."""
    match = _CURSOR.fullmatch(text)
    if match is None:
        shown = text if len(text) <= 40 else text[:40] + "…"
        raise CursorInvalid(f"'{param}' must be an event id such as '1-42' or '1-42.1', got {shown!r}.", param=param)
    epoch, n, k = match.groups()
    return Cursor(int(epoch), int(n), int(k or 0))
