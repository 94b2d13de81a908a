"""Request bodies, read under a byte limit."""

import asyncio
from contextlib import suppress

from fastapi import Request
from starlette.datastructures import Headers
from starlette.types import Message, Receive, Scope

from producer_api.envelope import HttpError

DRAINED = 4
"""A body up to this many times the limit is read to its end before it is refused: an answer given while the client still sends resets the
connection, and most clients then never see it. A larger one is not worth the traffic."""


async def read_body(request: Request, limit: int) -> bytes:
    """The whole body. Raises 413 as soon as `limit` bytes are exceeded, 415 for a body that is not plain JSON."""
    check_coding(request)
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        # A page in a browser can send any other type across origins without asking: that would let it spend a local server's time.
        raise HttpError(415, "Content-Type must be 'application/json'.", code="unsupported_media_type")
    # The server has refused a malformed Content-Length before we are called; a body without one is counted.
    size = int(request.headers.get("content-length", "0"))
    chunks: list[bytes] = []
    if size <= DRAINED * limit:
        size = 0
        async for chunk in request.stream():
            size += len(chunk)
            if size <= limit:
                chunks.append(chunk)
            elif size > DRAINED * limit:
                break
    if size > limit:
        raise HttpError(413, f"The body is larger than the limit of {limit} bytes.", code="body_too_large")
    return b"".join(chunks)


def check_coding(request: Request) -> None:
    """Raises 415 for a compressed body: its size on the wire would say nothing about what it unpacks to."""
    coding = request.headers.get("content-encoding", "identity")
    if coding.lower() != "identity":
        raise HttpError(415, f"Content-Encoding '{coding[:40]}' is not supported; send the body as it is.", code="unsupported_media_type")


LEFTOVER_BYTES = 16_777_216
LEFTOVER_S = 10.0


class Incoming:
    """A body on its way in, wherever it is read: knows whether it has come to its end."""

    def __init__(self, scope: Scope, receive: Receive) -> None:
        headers = Headers(scope=scope)
        self.ended = headers.get("content-length", "0") == "0" and "transfer-encoding" not in headers
        self._receive = receive

    async def receive(self) -> Message:
        message = await self._receive()
        self.ended = message["type"] != "http.request" or not message.get("more_body", False)
        return message

    async def discard(self) -> bool:
        """Read what nobody wanted, see DRAINED. False if that is too much, or takes too long."""
        most = LEFTOVER_BYTES
        with suppress(TimeoutError):
            async with asyncio.timeout(LEFTOVER_S):
                while not self.ended and most > 0:
                    most -= len((await self.receive()).get("body", b""))
        return self.ended
