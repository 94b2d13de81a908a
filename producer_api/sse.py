"""Server-sent events as the official client can read them.

Two of its traits decide the framing. It dispatches an event at every blank line once any `id:` was seen, whether or not there was data, so
a ping is a comment of one line without the usual blank line behind it. And it takes a clean end for the end of the answer, [DONE] or not,
so an unfinished stream ends by raising out of the generator: the server then drops the connection, and the client raises.
"""

import asyncio
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import aclosing

from starlette.responses import StreamingResponse
from starlette.types import Message, Send

from producer_api.chunks import Event
from producer_api.log_reader import Interrupted

PING = b": ping\n"

SEND_TIMEOUT_S = 60.0
"""A client that takes no byte for so long is dropped; it may come back with its cursor."""

_HEADERS = {"cache-control": "no-cache, no-transform", "x-accel-buffering": "no"}


def frame(events: Iterable[Event]) -> bytes:
    return b"".join(b"id: %b\ndata: %b\n\n" % (str(cursor).encode(), data) for cursor, data in events)


class EventStream(StreamingResponse):
    def __init__(self, frames: AsyncGenerator[bytes, None], *, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(frames, media_type="text/event-stream", headers={**_HEADERS, **(headers or {})})
        self._frames = frames

    async def stream_response(self, send: Send) -> None:
        async def send_in_time(message: Message) -> None:
            try:
                async with asyncio.timeout(SEND_TIMEOUT_S):
                    await send(message)
            except TimeoutError:
                raise Interrupted from None

        # A generator that is not closed here is closed whenever it is collected, and holds its subscription until then.
        async with aclosing(self._frames):
            await super().stream_response(send_in_time)
