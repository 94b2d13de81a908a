"""What the engine process last said in the worker's log: the only one who knows what a start that takes minutes is at."""

import re
from pathlib import Path

_TAIL_BYTES = 16_384
_SAID = re.compile(r"^\S+ \S+ (?:INFO|WARNING) engine\[\d+\] [\w.]+: (.+)$", re.MULTILINE)
"""A line as `headrace.lifecycle.configure` has them written."""


class WorkerLog:
    """`path` from where it ends now: what stands there is of earlier runs."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._from = path.stat().st_size if path.exists() else 0

    def last(self) -> str | None:
        """What the engine said last; None if that is nothing yet, or long ago."""
        try:
            with self._path.open("rb") as log:
                log.seek(max(self._from, self._path.stat().st_size - _TAIL_BYTES))
                text = log.read().decode(errors="replace")
        except OSError:  # not there yet; what it would say is not worth an error
            return None
        said = _SAID.findall(text)
        return said[-1] if said else None
