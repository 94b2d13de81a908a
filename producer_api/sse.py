"""Server-sent events as the official client can read them.

Two of its traits decide the framing. It dispatches an event at every blank line once any `id:` was seen, whether or not there was data, so
a ping is a comment of one line without the usual blank line behind it. And it takes a clean end for the end of the answer, [DONE] or not,
so an unfinished stream ends by raising out of the generator: the server then drops the connection, and the client raises.
"""

from collections.abc import AsyncGenerator, Iterable, Mapping

from producer_api.chunks import Event
from producer_api.timed_stream import TimedStream

PING = b": ping\n"

_HEADERS = {"cache-control": "no-cache, no-transform", "x-accel-buffering": "no"}


def frame(events: Iterable[Event]) -> bytes:
    return b"".join(b"id: %b\ndata: %b\n\n" % (str(cursor).encode(), data) for cursor, data in events)


class EventStream(TimedStream):
    def __init__(self, frames: AsyncGenerator[bytes, None], *, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(frames, media_type="text/event-stream", headers={**_HEADERS, **(headers or {})})
