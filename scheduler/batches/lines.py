"""The lines of a batch's input: read once from end to end while it is validated, and one at a time, by number, ever after."""

import os
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple, Self

from headrace.files.sync import sync_file, sync_folder
from headrace.files.workspace import Workspace

_SKIP_BYTES = 1 << 20
_BOM = b"\xef\xbb\xbf"


class Line(NamedTuple):
    number: int
    """As an editor counts, from 1, blank lines included."""
    offset: int
    data: bytes
    """Without line end and byte order mark; cut off behind the limit if `too_long`."""
    too_long: bool


def read_lines(file: BinaryIO, limit: int) -> Iterator[Line]:
    """Every line of `file` that is not blank. However long a line is, no more than `limit` bytes of it are held."""
    offset = number = 0
    while raw := file.readline(limit + 2):  # two more, for its end
        number += 1
        start = offset
        offset += len(raw)
        data = raw.rstrip(b"\r\n")
        if not raw.endswith(b"\n") and len(raw) > limit:
            offset += _skip_line(file)
        if number == 1 and data.startswith(_BOM):
            data, start = data[len(_BOM) :], start + len(_BOM)
        if data.strip():
            yield Line(number, start, data[:limit], len(data) > limit)


def _skip_line(file: BinaryIO) -> int:
    skipped = 0
    while piece := file.readline(_SKIP_BYTES):
        skipped += len(piece)
        if piece.endswith(b"\n"):
            break
    return skipped


class Index:
    """Where each request of an input lies. 16 bytes a request, written once, when the input has been found good."""

    def __init__(self) -> None:
        self._places = array("q")

    def __len__(self) -> int:
        return len(self._places) // 2

    def add(self, line: Line) -> None:
        self._places.extend((line.offset, len(line.data)))

    def place(self, line: int) -> tuple[int, int]:
        """Offset and length."""
        return self._places[2 * line], self._places[2 * line + 1]

    def save(self, path: Path) -> None:
        """Afterwards the file is there whole; before, not at all."""
        draft = path.with_suffix(".draft")
        with draft.open("wb") as file:
            self._places.tofile(file)
        sync_file(draft)
        draft.rename(path)
        sync_folder(path.parent)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Raises FileNotFoundError, ValueError if it is no index."""
        index = cls()
        index._places.frombytes(path.read_bytes())
        if len(index._places) % 2:
            raise ValueError(f"{path} is no index: it has {len(index._places)} places")
        return index


class Input:
    """A validated input, by line from 0."""

    def __init__(self, path: Path, index: Index) -> None:
        self._index = index
        self._descriptor = os.open(path, os.O_RDONLY)

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, line: int) -> bytes:
        offset, length = self._index.place(line)
        return os.pread(self._descriptor, length, offset)

    def close(self) -> None:
        os.close(self._descriptor)


def open_input(workspace: Workspace, total: int) -> Input | None:
    """The input of a batch that was found to have `total` requests; None if the workspace does not hold it (any more)."""
    try:
        index = Index.load(workspace.index)
        return Input(workspace.input, index) if len(index) == total else None
    except (FileNotFoundError, ValueError):
        return None


def index_anew(workspace: Workspace, line_bytes: int) -> None:
    """The index of an input that was found good, for the one that is lost. Raises OSError."""
    index = Index()
    with workspace.input.open("rb") as file:
        for line in read_lines(file, line_bytes):
            index.add(line)
    index.save(workspace.index)
