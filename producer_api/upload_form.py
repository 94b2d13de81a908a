"""The multipart form of an upload, parsed as it arrives: bytes in, the file's bytes out, and the checked fields at the end.

No I/O, and nothing is kept but the fields. Starlette's own form parser spools a file of any size before its caller sees a byte of it.
"""

import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header

from headrace.errors import InvalidRequest
from headrace.file import Purpose
from producer_api.envelope import HttpError

FILE = "file"
PURPOSE = "purpose"
ANCHOR = "expires_after[anchor]"
SECONDS = "expires_after[seconds]"

SHORTEST_EXPIRY_S, LONGEST_EXPIRY_S = 3_600, 2_592_000
MAX_NAME_CHARS = 255

_MAX_BOUNDARY = 70
_MAX_FIELD_BYTES = 1_024
_MAX_HEADERS = 8
_MAX_HEADER_BYTES = 4_096
_PLAIN_CODINGS = (b"", b"7bit", b"8bit", b"binary")
_DIGITS = re.compile(r"[0-9]{1,9}")


class Fields(NamedTuple):
    filename: str
    expires_after_s: int | None
    """None: the caller did not say."""


class UploadForm:
    """One form. After an error it is of no more use."""

    def __init__(self, content_type: str) -> None:
        """Raises 415 for another type of body, InvalidRequest for a boundary that is missing or too long."""
        self._parser = MultipartParser(
            _boundary(content_type),
            {
                "on_part_begin": self._begin_part,
                "on_header_field": self._extend_header_name,
                "on_header_value": self._extend_header_value,
                "on_header_end": self._end_header,
                "on_headers_finished": self._open_part,
                "on_part_data": self._extend_part,
                "on_part_end": self._end_part,
                "on_end": self._end,
            },
            max_header_count=_MAX_HEADERS,
            max_header_size=_MAX_HEADER_BYTES,
        )
        self._filename: str | None = None
        self._values: dict[str, str] = {}
        self._ended = False
        self._headers: dict[bytes, bytes] = {}
        self._header_name = bytearray()
        self._header_value = bytearray()
        self._part = ""
        self._field = bytearray()
        self._file_bytes: list[bytes] = []

    def feed(self, chunk: bytes) -> bytes:
        """The file's bytes in this chunk of the body. Raises InvalidRequest as soon as the form is wrong, whatever follows."""
        try:
            self._parser.write(chunk)
        except MultipartParseError:
            # The library's reasons count bytes from the start of a chunk, and chunks are not the caller's.
            raise _malformed(
                "The body is not valid multipart/form-data: a boundary or a part's header is malformed, or a part has more than "
                f"{_MAX_HEADERS} headers or one of more than {_MAX_HEADER_BYTES} bytes."
            ) from None
        pieces, self._file_bytes = self._file_bytes, []
        return b"".join(pieces)

    def finish(self) -> Fields:
        """The fields, once the whole body was fed. Raises InvalidRequest for a form that is cut short or lacks a part."""
        if not self._ended:
            raise _malformed("The body ends before its closing boundary: it was cut short.")
        if self._filename is None:
            raise _missing(FILE)
        if PURPOSE not in self._values:
            raise _missing(PURPOSE)
        for given, needed in ((ANCHOR, SECONDS), (SECONDS, ANCHOR)):
            if given in self._values and needed not in self._values:
                raise _missing(needed)
        return Fields(self._filename, int(self._values[SECONDS]) if SECONDS in self._values else None)

    # What the parser calls

    def _begin_part(self) -> None:
        self._headers = {}
        self._part = ""
        self._field = bytearray()

    def _extend_header_name(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _extend_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _end_header(self) -> None:
        self._headers[bytes(self._header_name).lower()] = bytes(self._header_value)
        self._header_name.clear()
        self._header_value.clear()

    def _open_part(self) -> None:
        coding = self._headers.get(b"content-transfer-encoding", b"").strip().lower()
        if coding not in _PLAIN_CODINGS:
            raise InvalidRequest(
                f"A part's Content-Transfer-Encoding {_shown(coding.decode('latin-1'))} is not supported; send it as it is."
            )
        disposition, options = parse_options_header(self._headers.get(b"content-disposition"))
        if disposition != b"form-data" or b"name" not in options:
            raise _malformed("A part has no Content-Disposition header of the form 'form-data; name=\"…\"'.")
        self._part = options[b"name"].decode(errors="replace")
        if self._part == FILE:
            if self._filename is not None:
                raise InvalidRequest("'file' was given more than once; upload one file at a time.", param=FILE)
            self._filename = display_name(options.get(b"filename", b"").decode(errors="replace"))
        elif self._part not in _CHECKS:
            raise InvalidRequest(f"Unknown parameter: {_shown(self._part)}.", param=self._part[:64], code="unknown_parameter")
        elif self._part in self._values:
            raise InvalidRequest(f"'{self._part}' was given more than once.", param=self._part)

    def _extend_part(self, data: bytes, start: int, end: int) -> None:
        if self._part == FILE:
            self._file_bytes.append(data[start:end])
            return
        self._field += data[start:end]
        if len(self._field) > _MAX_FIELD_BYTES:
            raise InvalidRequest(f"'{self._part}' must be at most {_MAX_FIELD_BYTES} bytes long, got more.", param=self._part)

    def _end_part(self) -> None:
        if self._part != FILE:
            value = self._field.decode(errors="replace")
            _CHECKS[self._part](value)
            self._values[self._part] = value

    def _end(self) -> None:
        self._ended = True


def display_name(given: str) -> str:
    """The last component of a file name, in whichever system's notation, without what cannot be shown. Raises InvalidRequest if nothing
    is left, which includes a part that is no file at all."""
    last = given.replace("\\", "/").rpartition("/")[2]
    name = "".join(character for character in last if character.isprintable()).strip()[:MAX_NAME_CHARS]
    if name in ("", ".", ".."):
        raise InvalidRequest(f"'file' must be sent as a file with a name, got the name {_shown(given)}.", param=FILE)
    return name


def _boundary(content_type: str) -> bytes:
    media_type, options = parse_options_header(content_type)
    if media_type != b"multipart/form-data":
        raise HttpError(415, "Content-Type must be 'multipart/form-data'.", code="unsupported_media_type")
    boundary = options.get(b"boundary", b"")
    if not 1 <= len(boundary) <= _MAX_BOUNDARY:
        raise _malformed(f"Content-Type must name a boundary of 1 to {_MAX_BOUNDARY} characters, got {len(boundary)}.")
    return boundary


def _check_purpose(value: str) -> None:
    if value != Purpose.BATCH:
        raise InvalidRequest(f"'{PURPOSE}' must be '{Purpose.BATCH}', got {_shown(value)}.", param=PURPOSE)


def _check_anchor(value: str) -> None:
    if value != "created_at":
        raise InvalidRequest(f"'{ANCHOR}' must be 'created_at', got {_shown(value)}.", param=ANCHOR)


def _check_seconds(value: str) -> None:
    if not _DIGITS.fullmatch(value) or not SHORTEST_EXPIRY_S <= int(value) <= LONGEST_EXPIRY_S:
        raise InvalidRequest(
            f"'{SECONDS}' must be an integer from {SHORTEST_EXPIRY_S} to {LONGEST_EXPIRY_S}, got {_shown(value)}.", param=SECONDS
        )


_CHECKS: Mapping[str, Callable[[str], None]] = {PURPOSE: _check_purpose, ANCHOR: _check_anchor, SECONDS: _check_seconds}


def _malformed(message: str) -> InvalidRequest:
    return InvalidRequest(message, code="invalid_multipart")


def _missing(name: str) -> InvalidRequest:
    return InvalidRequest(f"'{name}' is required.", param=name, code="missing_required_parameter")


def _shown(value: str) -> str:
    return repr(value) if len(value) <= 40 else repr(value[:40]) + "…"
