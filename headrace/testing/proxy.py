"""A wire between client and server that is bad as wires can be: slow, cut at the worst moment, or silent and yet there."""

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from socket import SO_LINGER, SOL_SOCKET
from ssl import SSLContext
from urllib.parse import urlsplit

from headrace.testing.serving import serving, shutting, until_one_ends

_PIECE = 65_536
_TICKS_PER_S = 50


class Proxy:
    """Forwards TCP connections. Its attributes say what goes wrong, and may change at any time."""

    def __init__(self, upstream: str) -> None:
        self.upstream = upstream
        """Path of a Unix socket, or http://host:port. Another one is for the connections to come."""
        self.drop_replies = False
        """Cut every connection that a reply arrives on: the request went through."""
        self.silent = False
        """Swallow everything in both directions and keep the connections: the peer looks alive and is not."""
        self.cut_after: list[int] = []
        """Bytes of replies after which the next connections are cut, one for each; the later ones are whole."""
        self.reset = False
        """A cut is a reset and not an end."""
        self.delay_s = 0.0
        """Every piece is late by so much, either way."""
        self.throttle: int | None = None
        """Bytes of replies per second and connection."""
        self.dropped = 0
        self.swallowed = 0
        """Pieces that `silent` has kept from the other side."""
        self.accepted = 0
        """Connections so far."""
        self.port = 0
        self._wires: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        left = self.cut_after.pop(0) if self.cut_after else None
        try:
            up_reader, up_writer = await self._connect()
        except OSError:
            self._end(writer)
            return
        async with shutting(up_writer):
            wire = asyncio.create_task(until_one_ends(self._requests(reader, up_writer), self._replies(up_reader, writer, left)))
            self._wires.add(wire)
            try:
                await asyncio.wait([wire])
            finally:
                self._wires.discard(wire)
                wire.cancel()
                await asyncio.gather(wire, return_exceptions=True)
            for writer_ in (writer, up_writer):
                self._end(writer_)

    def cut(self) -> None:
        """Every connection that stands."""
        for wire in self._wires:
            wire.cancel()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if "://" not in self.upstream:
            return await asyncio.open_unix_connection(self.upstream)
        where = urlsplit(self.upstream)
        # A small buffer: a reader that is throttled must hold back the server, not fill the proxy.
        return await asyncio.open_connection(where.hostname, where.port, limit=_PIECE)

    def _end(self, writer: asyncio.StreamWriter) -> None:
        if self.reset and not writer.transport.is_closing():
            writer.get_extra_info("socket").setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
        else:
            writer.close()

    async def _requests(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(_PIECE):
                await self._pass(data, writer)

    async def _replies(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, left: int | None) -> None:
        with suppress(OSError):
            while left != 0 and (data := await reader.read(self._piece(left))):
                if self.drop_replies:
                    self.dropped += 1
                    return
                if left is not None:
                    left -= len(data)
                await self._pass(data, writer)
                if self.throttle is not None:
                    await asyncio.sleep(len(data) / self.throttle)

    def _piece(self, left: int | None) -> int:
        most = _PIECE if self.throttle is None else max(1, self.throttle // _TICKS_PER_S)
        return most if left is None else min(most, left)

    async def _pass(self, data: bytes, writer: asyncio.StreamWriter) -> None:
        if self.silent:
            self.swallowed += 1
            return
        if self.delay_s:
            await asyncio.sleep(self.delay_s)
        writer.write(data)
        await writer.drain()


@asynccontextmanager
async def proxy_to(upstream: str, tls: SSLContext | None = None) -> AsyncIterator[Proxy]:
    """To the path of a Unix socket, or http://host:port. `tls`: what clients are met with."""
    proxy = Proxy(upstream)
    async with serving(proxy.handle, tls) as proxy.port:
        yield proxy
