"""What happens to a tree of processes, in one line each: shown at once, and kept with its time."""

from contextlib import suppress
from datetime import datetime
from pathlib import Path

from rich.console import Console


class Events:
    def __init__(self, console: Console, log: Path) -> None:
        self._console = console
        self._log = log
        self.any_told = False

    def tell(self, line: str, *, style: str) -> None:
        """Raises nothing: a disk without room is among what is told, and either place may be on it."""
        self.any_told = True
        with suppress(OSError):
            self._console.print(line, style=style, markup=False, highlight=False, soft_wrap=True)
        with suppress(OSError), self._log.open("a", encoding="utf-8") as log:
            log.write(f"{datetime.now().astimezone().isoformat(sep=' ', timespec='milliseconds')} {line}\n")
