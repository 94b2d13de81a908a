"""A wire between client and server that can be cut at the worst moment: after the request went through, before its reply."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress


class Proxy:
    """Forwards TCP connections to a Unix socket. Set `drop_replies` to cut every connection that a reply arrives on."""

    def __init__(self, upstream: str) -> None:
        self.drop_replies = False
        self.silent = False
        """Swallow everything in both directions and keep the connections: the peer looks alive and is not."""
        self.dropped = 0
        self.accepted = 0
        """Connections so far."""
        self.port = 0
        self._upstream = upstream
        self._pipes: set[asyncio.Task[None]] = set()

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        up_reader, up_writer = await asyncio.open_unix_connection(self._upstream)
        requests = asyncio.create_task(self._pipe(reader, up_writer, replies=False))
        replies = asyncio.create_task(self._pipe(up_reader, writer, replies=True))
        self._pipes |= {requests, replies}
        await asyncio.wait({requests, replies}, return_when=asyncio.FIRST_COMPLETED)
        for writer_ in (writer, up_writer):
            writer_.close()
            with suppress(OSError):
                await writer_.wait_closed()
        await asyncio.wait({requests, replies})
        self._pipes -= {requests, replies}

    async def aclose(self) -> None:
        pipes = set(self._pipes)
        for pipe in pipes:
            pipe.cancel()
        await asyncio.gather(*pipes, return_exceptions=True)

    async def _pipe(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, replies: bool) -> None:
        with suppress(OSError):
            while data := await reader.read(65_536):
                if replies and self.drop_replies:
                    self.dropped += 1
                    return
                if not self.silent:
                    writer.write(data)
                    await writer.drain()


@asynccontextmanager
async def proxy_to(socket_path: str) -> AsyncIterator[Proxy]:
    proxy = Proxy(socket_path)
    server = await asyncio.start_server(proxy.handle, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        await proxy.aclose()
        await server.wait_closed()
