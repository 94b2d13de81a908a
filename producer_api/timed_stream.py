"""A response whose body comes piece by piece, to a client that may stop taking it."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing

from starlette.responses import StreamingResponse
from starlette.types import Message, Send

from producer_api.log_reader import Interrupted

SEND_TIMEOUT_S = 60.0
"""A client that takes no byte for so long is dropped; it may come back."""


class TimedStream(StreamingResponse):
    def __init__(self, pieces: AsyncGenerator[bytes, None], *, media_type: str, headers: Mapping[str, str]) -> None:
        super().__init__(pieces, media_type=media_type, headers=headers)
        self._pieces = pieces

    async def stream_response(self, send: Send) -> None:
        async def send_in_time(message: Message) -> None:
            try:
                async with asyncio.timeout(SEND_TIMEOUT_S):
                    await send(message)
            except TimeoutError:
                raise Interrupted from None

        # A generator that is not closed here is closed whenever it is collected, and holds what it has open until then.
        async with aclosing(self._pieces):
            await super().stream_response(send_in_time)
