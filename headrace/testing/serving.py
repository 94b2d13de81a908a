"""A TCP server inside a test's own event loop that leaves no connection behind, whenever it is left."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from ssl import SSLContext
from typing import Any

Handle = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]]


@asynccontextmanager
async def serving(handle: Handle, tls: SSLContext | None = None) -> AsyncIterator[int]:
    """Its port on 127.0.0.1. `handle` is cancelled for whoever is still connected in the end; connections are closed behind it."""
    connected: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with shutting(writer):
            await handle(reader, writer)

    def begin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # No coroutine: the server would make a task of it that nobody else knows of.
        task = asyncio.create_task(serve(reader, writer))
        connected[task] = writer
        task.add_done_callback(connected.pop)

    server = await asyncio.start_server(begin, "127.0.0.1", 0, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        left = dict(connected)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        # A task that is cancelled before it began closes nothing.
        await asyncio.gather(*(_abort(writer) for writer in left.values()))
        await server.wait_closed()


@asynccontextmanager
async def shutting(writer: asyncio.StreamWriter) -> AsyncIterator[None]:
    """Closed behind it, once what was written is sent; at once if it is left by an exception, as a peer may never read it."""
    try:
        yield
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
    finally:
        await _abort(writer)


async def _abort(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()
    with suppress(OSError):
        await writer.wait_closed()


async def until_one_ends(*ways: Coroutine[Any, Any, None]) -> None:
    """The others are cancelled. Raises what it raised."""
    tasks = [asyncio.create_task(way) for way in ways]
    try:
        ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in ended:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
