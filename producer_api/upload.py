"""An uploaded file on its way to the disk: parsed, bounded, hashed and written as it arrives.

    body ─► form ─► pieces of about 1 MB ─► scratch file

No more of it than one piece is ever in memory.
"""

import asyncio
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from fastapi import Request

from headrace.batch_ports import BlobStore
from headrace.errors import RequestError
from headrace.wire.json_object import fingerprint
from producer_api.body import DRAINED, check_coding
from producer_api.disk import writing_files
from producer_api.envelope import HttpError
from producer_api.upload_form import UploadForm

STALL_S = 60.0
"""A client that sends nothing for so long is gone, whether or not its connection says so."""

_PIECE_BYTES = 1 << 20
_AROUND_BYTES = 262_144
"""More than the form's fields and headers can come to: what is beyond is stuffing before the first boundary or behind the last."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Upload:
    scratch: Path
    """Holds the whole file; nothing of it is durable yet."""
    filename: str
    size: int
    expires_after_s: int | None
    body_hash: str
    """Equal for equal uploads: the same bytes under the same name with the same fields."""


@asynccontextmanager
async def receive(http: Request, blobs: BlobStore, limit: int) -> AsyncIterator[Upload]:
    """The request's file. Its scratch is gone afterwards, however this ends, unless it was published.

    Raises RequestError (413 as soon as the file exceeds `limit` bytes, 507 or 503 as soon as the disk fails), ClientDisconnect.
    """
    form = _form(http, limit)
    scratch = await asyncio.to_thread(blobs.scratch)
    try:
        with writing_files():
            sink = _Sink(await asyncio.to_thread(scratch.open, "xb"))
        try:
            await _fill(sink, form, http, limit)
        finally:
            await asyncio.to_thread(sink.close)
        filename, expires_after_s = form.finish()
        parts = {"filename": filename, "expires_after": expires_after_s, "sha256": sink.sha256}
        yield Upload(
            scratch=scratch,
            filename=filename,
            size=sink.size,
            expires_after_s=expires_after_s,
            body_hash=fingerprint(http.url.path, parts),
        )
    finally:
        with suppress(OSError):  # what cannot be deleted now is swept away later
            await asyncio.to_thread(scratch.unlink, missing_ok=True)


class _Sink:
    """Writes and hashes off the event loop, a piece at a time."""

    def __init__(self, file: BinaryIO) -> None:
        # A buffered file: its lock keeps `close` waiting for a write that a cancelled call has left behind in its thread.
        self._file = file
        self._digest = hashlib.sha256()
        self._pending = bytearray()
        self.size = 0

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()

    async def take(self, data: bytes) -> None:
        self._pending += data
        self.size += len(data)
        if len(self._pending) >= _PIECE_BYTES:
            await self.flush()

    async def flush(self) -> None:
        piece, self._pending = self._pending, bytearray()
        await asyncio.to_thread(self._store, piece)

    def _store(self, piece: bytearray) -> None:
        self._digest.update(piece)
        with writing_files():
            self._file.write(piece)

    def close(self) -> None:
        with writing_files():  # what is left in its buffer is written here
            self._file.close()


def _form(http: Request, limit: int) -> UploadForm:
    """The form to be read, if the headers allow it."""
    if http.headers.get("sec-fetch-site") == "cross-site":
        # The one type of body besides text that a page of any site may send without asking: it could fill a local server's disk.
        raise HttpError(403, "Uploads from pages of other sites are refused.", code="cross_site_request")
    check_coding(http)
    form = UploadForm(http.headers.get("content-type", ""))
    # The server has refused a malformed Content-Length before we are called; a body without one is counted.
    if int(http.headers.get("content-length", "0")) > DRAINED * limit:
        raise _too_large(limit)
    return form


async def _fill(sink: _Sink, form: UploadForm, http: Request, limit: int) -> None:
    received = 0
    async with aclosing(_arriving(http)) as body:
        try:
            async for chunk in body:
                received += len(chunk)
                await sink.take(form.feed(chunk))
                if sink.size > limit:
                    raise _too_large(limit)
                if received > sink.size + _AROUND_BYTES:
                    raise HttpError(
                        413, f"The form around the file is larger than the limit of {_AROUND_BYTES} bytes.", code="body_too_large"
                    )
        except RequestError:
            # See DRAINED. Whatever becomes of the rest, what was wrong first is what the caller hears.
            with suppress(HttpError):
                await _discard(body, DRAINED * limit - received)
            raise
    await sink.flush()


async def _arriving(http: Request) -> AsyncGenerator[bytes, None]:
    """The body as it comes. Raises ClientDisconnect, and 408 for a client that has gone silent."""
    async with aclosing(http.stream()) as stream:
        while True:
            try:
                async with asyncio.timeout(STALL_S):
                    chunk = await anext(stream, None)
            except TimeoutError:
                raise HttpError(408, f"Nothing came for {STALL_S:g} seconds; the upload was given up.", code="upload_stalled") from None
            if chunk is None:
                return
            yield chunk


async def _discard(body: AsyncIterator[bytes], most: int) -> None:
    async for chunk in body:
        most -= len(chunk)
        if most < 0:
            return


def _too_large(limit: int) -> HttpError:
    return HttpError(413, f"The file is larger than the limit of {limit} bytes.", code="file_too_large", param="file")
