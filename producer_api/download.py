"""A stored file on its way out: read in a thread, piece by piece, as fast as the client takes it."""

from collections.abc import AsyncGenerator, Generator, Iterable, Mapping
from contextlib import suppress
from urllib.parse import quote

from starlette.concurrency import run_in_threadpool
from starlette.types import Receive, Scope, Send

from headrace.batch_ports import BlobStore
from producer_api.timed_stream import TimedStream

Pieces = Generator[bytes, None, None]

_PIECE_BYTES = 65_536
"""What a client must take within the send timeout: 1 kB a second is enough."""


def blob_pieces(blobs: BlobStore, blob_id: str) -> Pieces:
    """Raises FileNotKnown with the first piece."""
    with blobs.open(blob_id) as file:
        while piece := file.read(_PIECE_BYTES):
            yield piece


def line_pieces(lines: Iterable[bytes]) -> Pieces:
    """The same bytes in fewer pieces: each one costs a thread's turn."""
    piece = bytearray()
    for line in lines:
        piece += line
        if len(piece) >= _PIECE_BYTES:
            yield bytes(piece)
            piece.clear()
    if piece:
        yield bytes(piece)


async def download(pieces: Pieces, filename: str, headers: Mapping[str, str]) -> "Download":
    """The answer that carries `pieces`. Raises what the first of them raises: there is still time for another answer."""
    first = await run_in_threadpool(next, pieces, b"")
    return Download(first, pieces, filename, headers)


class Download(TimedStream):
    def __init__(self, first: bytes, rest: Pieces, filename: str, headers: Mapping[str, str]) -> None:
        super().__init__(
            _in_turn(first, rest),
            media_type="application/octet-stream",
            # What is in the file is its owner's business: no browser is to take it for a page of ours.
            headers={"content-disposition": _attachment(filename), "x-content-type-options": "nosniff", **headers},
        )
        self._rest = rest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            # Not left to the collector: the traceback of a cancelled send can hold the file for long. A thread that is still inside, which
            # happens only at a shutdown, makes this fail, and lets go of the file when it is done.
            with suppress(ValueError):
                self._rest.close()


async def _in_turn(first: bytes, rest: Pieces) -> AsyncGenerator[bytes, None]:
    yield first
    # Not asyncio's: a client who leaves cancels this, and the file may be closed only when the thread is out of it.
    while piece := await run_in_threadpool(next, rest, b""):
        yield piece


def _attachment(filename: str) -> str:
    quoted = quote(filename, safe="")
    return f'attachment; filename="{filename}"' if quoted == filename else f"attachment; filename*=utf-8''{quoted}"
