"""What a supervised process tells its parent in words: a line each over a pipe that outlives it.

It carries what only the process itself sees, such as the death of a child of its own; its own death the parent sees.
"""

import asyncio
import os
from collections.abc import Callable
from contextlib import suppress

Tell = Callable[[bool, str], None]
"""Is it good news; the line, without an end."""

_WELL, _BAD = "+", "-"
_READ_BYTES = 65_536


def telling(fd: int) -> Tell:
    """For the child. What it returns raises nothing: a parent that is gone, or that reads nothing, must keep nobody from his work."""
    os.set_blocking(fd, False)

    def tell(well: bool, line: str) -> None:
        with suppress(OSError):
            os.write(fd, f"{_WELL if well else _BAD}{line}\n".encode())

    return tell


def tell_nobody(_well: bool, _line: str) -> None:
    """For a process without such a parent."""


class Ear:
    """The parent's side. `fd` is for its children to inherit."""

    def __init__(self, heard: Tell) -> None:
        """Listens on the running loop until `close`."""
        self._heard = heard
        self._reader, self.fd = os.pipe()
        self._begun = b""
        os.set_blocking(self._reader, False)
        asyncio.get_running_loop().add_reader(self._reader, self._read)

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._reader)
        os.close(self._reader)
        os.close(self.fd)

    def _read(self) -> None:
        *lines, self._begun = (self._begun + os.read(self._reader, _READ_BYTES)).split(b"\n")
        for line in lines:
            text = line.decode(errors="replace")
            self._heard(text[:1] == _WELL, text[1:])
