"""The wires between each process and the store, in a process of their own: `python -m tests.chaos.wires <upstream> <name>…`.

It prints the ports as one line of JSON, then reads commands, a line of JSON each: {"wire": name, "do": one of the faults of a wire, or
"heal"}. It ends with its standard input.
"""

import asyncio
import json
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from headrace.testing.proxy import Proxy, proxy_to
from tests.chaos.plan import Fault
from tests.chaos.versions import ROOT

LATE_S = 0.1
SLOW = 30_000
"""Bytes per second and connection."""
HEAL = "heal"


class Wires:
    """The process, seen from outside."""

    def __init__(self, process: Process, ports: dict[str, int]) -> None:
        self._process = process
        self._ports = ports

    def url(self, name: str) -> str:
        """Where the process of this name finds the store."""
        return f"redis://127.0.0.1:{self._ports[name]}/0"

    async def strike(self, name: str, fault: Fault, lasts_s: float) -> None:
        """Returns once the wire is whole again."""
        self._send(name, fault)
        try:
            await asyncio.sleep(lasts_s)
        finally:
            self._send(name, HEAL)

    def _send(self, name: str, what: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"wire": name, "do": what}).encode() + b"\n")


@asynccontextmanager
async def wires_to(upstream: str, names: Sequence[str]) -> AsyncIterator[Wires]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.chaos.wires", upstream, *names), stdin=PIPE, stdout=PIPE, cwd=ROOT, start_new_session=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield Wires(process, json.loads(await process.stdout.readline()))
    finally:
        process.stdin.close()
        await process.wait()


def apply(proxy: Proxy, what: str) -> bool:
    """True if every connection that stands is to be cut now."""
    match what:
        case Fault.DELAY:
            proxy.delay_s = LATE_S
        case Fault.THROTTLE:
            proxy.throttle = SLOW
        case Fault.DROP:
            proxy.drop_replies = True
        case Fault.SILENCE:
            proxy.silent = True
        case Fault.RESET:
            proxy.reset = True
            return True
        case _:
            # What was swallowed is missing in the middle of a connection, which no wire does: it goes with it.
            broken = proxy.silent
            proxy.silent = proxy.drop_replies = proxy.reset = False
            proxy.delay_s, proxy.throttle = 0.0, None
            return broken
    return False


async def serve(upstream: str, names: Sequence[str]) -> None:
    async with AsyncExitStack() as stack:
        proxies = {name: await stack.enter_async_context(proxy_to(upstream)) for name in names}
        sys.stdout.write(json.dumps({name: proxy.port for name, proxy in proxies.items()}) + "\n")
        sys.stdout.flush()
        commands = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
        while line := await commands.readline():
            command = json.loads(line)
            proxy = proxies[command["wire"]]
            if apply(proxy, command["do"]):
                proxy.cut()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], sys.argv[2:]))
