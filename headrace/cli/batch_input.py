"""The input of `headrace batch run`, made into what the API takes: a line for a line, so the server's line numbers are the file's.

    {"body": {"messages": […]}}      JSONL: what a line leaves out is filled in, what it says stays
    Why is the sky blue?             plain text: every line that is not blank is a prompt

What cannot be read as either (no JSON, no UTF-8, a line without end) goes on untouched: the server's validation names it with its number.
"""

import codecs
import hashlib
import io
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from headrace.errors import HeadraceError
from headrace.request import Endpoint

STDIN = "-"
LONGEST_LINE = 1 << 24
"""Bytes. A longer line is not looked into: it is more than any server takes, and more than should be in memory at once."""
_LIMITS = ("max_tokens", "max_completion_tokens")


@dataclass(frozen=True, slots=True)
class Survey:
    """What must be known of an input before it is read for good."""

    sha256: str
    jsonl: bool
    endpoint: Endpoint | None
    """The one that its first request names."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fill:
    """What is filled in where a line leaves it out. `max_tokens` and `temperature` None: left to the server."""

    endpoint: Endpoint
    model: str
    max_tokens: int | None = None
    temperature: float | None = None

    @property
    def body(self) -> dict[str, Any]:
        given = {"model": self.model, "max_tokens": self.max_tokens, "temperature": self.temperature}
        return {name: value for name, value in given.items() if value is not None}


def open_input(source: str, beside: Path) -> BinaryIO:
    """The input, to be read more than once: a pipe is copied to a nameless file in folder `beside`. Raises HeadraceError."""
    if source == STDIN:
        return _copied(sys.stdin.buffer, beside)
    try:
        file = Path(source).open("rb")  # noqa: SIM115 - the caller's to close
    except IsADirectoryError:
        raise HeadraceError(f"the input {source} is a folder; name a file, or - for standard input") from None
    except OSError as error:
        raise HeadraceError(f"cannot read the input {source} ({error.strerror})") from None
    if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        return file
    with file:
        return _copied(file, beside)


def survey(file: BinaryIO) -> Survey:
    """Read `file` once. Raises HeadraceError if it holds no request."""
    first = next((line for line in _pieces(file) if line.strip()), None)
    if first is None:
        raise HeadraceError("the input is empty; write one request (JSON) or one prompt a line")
    # A line of JSON that is broken must not turn the whole file into prompts: it is told by how it begins.
    jsonl = first.lstrip().startswith(b"{")
    digest = hashlib.sha256()
    file.seek(0)
    while chunk := file.read(1 << 20):
        digest.update(chunk)
    return Survey(digest.hexdigest(), jsonl, _endpoint(first) if jsonl else None)


def upload(file: BinaryIO, jsonl: bool, fill: Fill) -> BinaryIO:
    """What to send of `file`, from its beginning; made while it is read."""
    return io.BufferedReader(_Readable(normalised(file, jsonl, fill)), 1 << 16)


def normalised(file: BinaryIO, jsonl: bool, fill: Fill) -> Iterator[bytes]:
    """The lines of `file` as requests, each with its newline; one that is too long comes in pieces."""
    request_of = _from_json if jsonl else _from_prompt
    number, begins = 0, True
    for piece in _pieces(file):
        ends = piece.endswith(b"\n") or len(piece) < LONGEST_LINE
        number += begins
        if not (begins and ends):
            yield piece
        elif not (line := piece.strip()):
            yield b"\n"
        else:
            yield (request_of(line if jsonl else piece.rstrip(b"\r\n"), number, fill) or line) + b"\n"
        begins = ends


def _pieces(file: BinaryIO) -> Iterator[bytes]:
    """The lines from the beginning, without a byte order mark; a line too long in pieces of at most LONGEST_LINE."""
    file.seek(0)
    if file.read(len(codecs.BOM_UTF8)) != codecs.BOM_UTF8:
        file.seek(0)
    return iter(lambda: file.readline(LONGEST_LINE), b"")


def _from_json(line: bytes, number: int, fill: Fill) -> bytes | None:
    """The request with its gaps filled; None: as it is."""
    try:
        given = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(given, dict):
        return None
    request = {"custom_id": f"line-{number}", "method": "POST", "url": fill.endpoint, **given}
    if isinstance(body := given.get("body"), dict):
        limited = any(name in body for name in _LIMITS)
        request["body"] = {name: value for name, value in fill.body.items() if not (limited and name == "max_tokens")} | body
    return orjson.dumps(request) if request != given else None


def _from_prompt(line: bytes, number: int, fill: Fill) -> bytes | None:
    """The request that asks the prompt; None if it is no text."""
    try:
        prompt = line.decode()
    except UnicodeDecodeError:
        return None
    asked = {"messages": [{"role": "user", "content": prompt}]} if fill.endpoint is Endpoint.CHAT else {"prompt": prompt}
    return orjson.dumps({"custom_id": f"line-{number}", "method": "POST", "url": fill.endpoint, "body": {**fill.body, **asked}})


def _endpoint(first: bytes) -> Endpoint | None:
    try:
        return Endpoint(orjson.loads(first)["url"])
    except (ValueError, KeyError, TypeError):  # the server's validation says what is wrong with it
        return None


def _copied(pipe: BinaryIO, beside: Path) -> BinaryIO:
    try:
        copy = tempfile.TemporaryFile(dir=beside)  # noqa: SIM115 - the caller's to close
        shutil.copyfileobj(pipe, copy)
    except OSError as error:
        raise HeadraceError(f"cannot copy the input into {beside} ({error.strerror})") from None
    return copy


class _Readable(io.RawIOBase):
    """Pieces of bytes as a file."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        super().__init__()
        self._pieces = pieces
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._rest = memoryview(piece)
        size = min(len(self._rest), len(buffer))
        buffer[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size
