"""Journals that were read not long ago: a second look takes in only what is new."""

from collections import OrderedDict
from pathlib import Path
from threading import Lock

from headrace.files.journal import Journal

_KEPT = 16
"""A journal of 50,000 lines takes 850 kB here."""


class Journals:
    """For several threads: what they do to one journal at a time is this class's to say."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._kept: OrderedDict[Path, Journal] = OrderedDict()

    def latest(self, path: Path) -> Journal:
        """The journal as far as it is written. It may grow while the caller reads, and what it has yielded by then stays true."""
        # One lock for all of them: refreshing takes in a few kilobytes, but for the first time.
        with self._lock:
            journal = self._kept.pop(path, None) or Journal(path)
            journal.refresh()
            self._kept[path] = journal
            if len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
            return journal
