"""A real HTTP server inside the test's own event loop: in-process transports neither stream nor notice a disconnect."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol


class _Server(Protocol):
    """What is needed of a uvicorn.Server whose port is 0."""

    started: bool
    should_exit: bool
    servers: list[asyncio.base_events.Server]

    async def serve(self) -> None: ...


@asynccontextmanager
async def listening(server: _Server) -> AsyncIterator[str]:
    """The base URL of `server`, which is stopped on leaving, and may have been stopped before."""
    task = asyncio.ensure_future(server.serve())
    try:
        async with asyncio.timeout(20):
            while not server.started:
                if task.done():
                    task.result()
                    raise RuntimeError("the server ended before it listened")
                await asyncio.sleep(0)
        host, port = server.servers[0].sockets[0].getsockname()[:2]
        yield f"http://{host}:{port}"
    finally:
        server.should_exit = True
        await task
