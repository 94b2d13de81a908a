"""Whoever leaves a server of a test leaves no connection behind: pytest takes a socket that is not closed for an error."""

import asyncio
import gc
from contextlib import suppress

import pytest

from headrace.testing.proxy import proxy_to
from headrace.testing.serving import serving

MUCH = b"x" * 8_000_000
"""More than the kernel holds for a peer that does not read."""


async def write_without_end(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while True:
            writer.write(MUCH)
            await writer.drain()


async def open_sockets() -> list[object]:
    """Of connections that nobody has closed."""
    await asyncio.sleep(0)  # a transport that was aborted is closed by the loop
    gc.collect()
    # Not isinstance: it asks other modules' proxies for their class, and some of them warn.
    return [one for one in gc.get_objects() if type(one) is asyncio.StreamWriter and one.get_extra_info("socket").fileno() >= 0]


@pytest.mark.parametrize("reading", [True, False], ids=["reads", "reads nothing"])
async def test_a_client_that_is_still_there(reading: bool) -> None:
    async with serving(write_without_end) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        if reading:
            await reader.read(1)
    writer.close()
    await asyncio.gather(writer.wait_closed(), return_exceptions=True)
    assert await open_sockets() == []


async def test_a_client_whose_server_dies_while_it_reads_nothing() -> None:
    """What was forwarded and not read keeps one side of the proxy closing while the other one is still to be closed."""
    async with serving(write_without_end) as port, proxy_to(f"http://127.0.0.1:{port}") as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        await reader.read(1)
        proxy.cut()
        await asyncio.sleep(0)
    writer.close()
    await asyncio.gather(writer.wait_closed(), return_exceptions=True)
    assert await open_sockets() == []
