"""The journal of a batch: the result of each line, in the order they came.

    <crc32 of the rest, 8 hex> <line> <ok|no> <prompt tokens> <answer tokens> <JSON of the result line>\\n

It is the only place where results live between the queue and the finished files, so a result is forgotten by the queue only once it is
durable here. Files in the order of the input, whole or as far as they go, are read out of it.

Whoever writes appends one piece at a time with O_APPEND, so two writers (a holder of the batch's lease, and one who has lost it and does
not know yet) never mix their bytes. Both write the same results; the first record of a line counts. A piece that was cut short, by a crash
or a full disk, ends in no newline or fails its checksum: it is passed over, and the next writer starts on a line of its own.
"""

import os
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from errno import EIO
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

from headrace.files.sync import sync_folder

_READ_BYTES = 1 << 22
_ABSENT, _OK, _NO = 0, 1, 2
_KINDS = {b"ok": _OK, b"no": _NO}


class Result(NamedTuple):
    """What became of a line (from 0)."""

    line: int
    answered: bool
    """It goes into the output file, else into the error file."""
    input_tokens: int
    output_tokens: int
    data: bytes
    """The JSON object for that file, without a newline."""


@dataclass(slots=True)
class Tally:
    completed: int = 0
    failed: int = 0
    input_tokens: int = 0
    output_tokens: int = 0


class JournalDamaged(OSError):
    """A record is not what it was when it was taken in."""


class Journal:
    """A reader that remembers where every line's record is, 17 bytes a line, and a writer.

    One thread at a time may `refresh` or `append`; others may go on reading what they have begun to read. A journal that is another file
    than it was, or a shorter one, is read anew from its start: what is not in it is missing, and not remembered.
    """

    def __init__(self, path: Path) -> None:
        """The file need not exist yet."""
        self._path = path
        self._forget()

    def _forget(self) -> None:
        self._file_id: tuple[int, int] | None = None
        self._read_to = 0
        self._offsets = array("q")
        self._lengths = array("i")
        self._data_lengths = array("i")
        self._kinds = bytearray()
        self._prefix_lines = 0
        self.tally = Tally()
        self.prefix_bytes = 0
        """Size of what `prefix` yields."""

    def __contains__(self, line: int) -> bool:
        return line < len(self._kinds) and self._kinds[line] != _ABSENT

    def __len__(self) -> int:
        """Lines that have a result."""
        return self.tally.completed + self.tally.failed

    def refresh(self) -> None:
        """Take in what was written since the last call, by whomever."""
        try:
            descriptor = os.open(self._path, os.O_RDONLY)
        except FileNotFoundError:
            self._forget()
            return
        try:
            self._recognize(os.fstat(descriptor))
            size = _READ_BYTES
            while piece := os.pread(descriptor, size, self._read_to):
                if whole := piece.rfind(b"\n") + 1:
                    self._take_in(piece[:whole])
                    size = _READ_BYTES
                elif len(piece) < size:
                    break  # somebody is in the middle of writing it, or died there
                else:
                    size *= 2  # a record longer than what was read
        finally:
            os.close(descriptor)
        self._extend_prefix()

    def _recognize(self, found: os.stat_result) -> None:
        file_id = (found.st_dev, found.st_ino)
        if file_id != self._file_id or found.st_size < self._read_to:
            self._forget()
            self._file_id = file_id

    def append(self, results: Sequence[Result]) -> None:
        """Make results durable. Raises OSError, and then any part of them may be.

        Should another writer's piece end without a newline at this very moment, the first record is spoilt with it: look for it.
        """
        if not results:
            return
        piece = b"".join(map(_record, results))
        descriptor = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            size = os.fstat(descriptor).st_size
            if size and os.pread(descriptor, 1, size - 1) != b"\n":
                piece = b"\n" + piece
            if (written := os.write(descriptor, piece)) != len(piece):
                raise OSError(f"only {written} of {len(piece)} bytes could be written to {self._path.name}")
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if not size:
            sync_folder(self._path.parent)  # its name, for it may be new
        self.refresh()

    def prefix(self) -> Iterator[bytes]:
        """Output lines, newline included, of the longest run of finished lines from the first on, as of the last refresh."""
        return self._read(range(self._prefix_lines), _OK)

    def answers(self) -> Iterator[bytes]:
        """All output lines in the order of the input."""
        return self._read(range(len(self._kinds)), _OK)

    def result(self, line: int) -> tuple[bool, bytes] | None:
        """Whether a line is answered, and its line of a file, without the newline; None if it has no result."""
        if line not in self:
            return None
        kind = self._kinds[line]
        return kind == _OK, next(self._read([line], kind)).rstrip(b"\n")

    def error(self, line: int) -> bytes | None:
        """The error line of a line, newline included, if it has one."""
        return next(self._read([line], _NO), None) if line in self else None

    def _read(self, lines: Sequence[int], kind: int) -> Iterator[bytes]:
        """Raises JournalDamaged."""
        # All that is needed of this object is taken now: it may have forgotten it when the next piece is asked for.
        offsets, lengths = self._offsets, self._lengths
        wanted = [line for line in lines if self._kinds[line] == kind]
        return self._read_records(wanted, offsets, lengths)

    def _read_records(self, lines: Sequence[int], offsets: "array[int]", lengths: "array[int]") -> Iterator[bytes]:
        if not lines:
            return
        with self._path.open("rb") as file:
            for line in lines:
                file.seek(offsets[line])
                parts = _parts(file.read(lengths[line]))
                if parts is None or int(parts[1]) != line:
                    self._file_id = None  # the next look starts anew
                    raise JournalDamaged(EIO, f"the record of line {line} is not what it was", str(self._path))
                yield parts[5]

    def _take_in(self, records: bytes) -> None:
        start = 0
        while (end := records.find(b"\n", start) + 1) > 0:
            self._take_in_one(records[start:end], self._read_to + start)
            start = end
        self._read_to += start

    def _take_in_one(self, record: bytes, at: int) -> None:
        parts = _parts(record)
        if parts is None:
            return
        line, kind = int(parts[1]), _KINDS[parts[2]]
        if line in self:
            return
        if (grow := line + 1 - len(self._kinds)) > 0:
            self._kinds.extend(bytes(grow))
            self._offsets.extend([0] * grow)
            self._lengths.extend([0] * grow)
            self._data_lengths.extend([0] * grow)
        self._kinds[line] = kind
        self._offsets[line] = at
        self._lengths[line] = len(record)
        self._data_lengths[line] = len(parts[5])
        tally = self.tally
        if kind == _OK:
            tally.completed += 1
        else:
            tally.failed += 1
        tally.input_tokens += int(parts[3])
        tally.output_tokens += int(parts[4])

    def _extend_prefix(self) -> None:
        while self._prefix_lines in self:
            if self._kinds[self._prefix_lines] == _OK:
                self.prefix_bytes += self._data_lengths[self._prefix_lines]
            self._prefix_lines += 1


def _parts(record: bytes) -> list[bytes] | None:
    """The fields of a record, the last with its newline; None if it is not whole."""
    parts = record.split(b" ", 5)
    return parts if len(parts) == 6 and parts[0] == _checksum(record[9:-1]) else None


def _record(result: Result) -> bytes:
    kind = b"ok" if result.answered else b"no"
    rest = b"%d %b %d %d %b" % (result.line, kind, result.input_tokens, result.output_tokens, result.data)
    return b"%b %b\n" % (_checksum(rest), rest)


def _checksum(rest: bytes) -> bytes:
    return b"%08x" % crc32(rest)
