"""An embedded Valkey that is kept alive: started again, on the same folder and address, when it dies, and killed first when it hangs.

    dead    its process has ended: seen within STORE_WATCH_S
    hung    its process is there and gives no answer: a PING each PING_S, and HANGS_S of silence are enough

A kill is safe whatever the server was doing: it syncs every write before it answers, so what is lost was acknowledged to nobody.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import BusyLoadingError, RedisError, ResponseError

from headrace.cli.events import Events
from headrace.embedded import EmbeddedValkey
from headrace.errors import HeadraceError
from headrace.supervise import ending

STORE_WATCH_S = 0.1
STORE_RETRY_S = 2.0
PING_S = 1.0
"""Between two pings, and how long each waits for its answer."""
HANGS_S = 10.0
"""Longer than any call of ours takes, and than a disk's bad moment."""


class Silence:
    """Decides whether a server hangs."""

    def __init__(self, limit: float, longest_look: float) -> None:
        """Seconds. What passes between two looks counts up to `longest_look`: who slept himself must not count all of his sleep."""
        self._limit = limit
        self._longest_look = longest_look
        self._lasted = 0.0

    def too_long(self, *, answered: bool, passed: float) -> bool:
        """`passed` seconds after the last look, or the start."""
        self._lasted = 0.0 if answered else self._lasted + min(passed, self._longest_look)
        return self._lasted >= self._limit


@asynccontextmanager
async def living_valkey(folder: Path, events: Events) -> AsyncIterator[str]:
    """Its URL. Raises EmbeddedError if it cannot be started at first."""
    server = EmbeddedValkey(folder)
    await asyncio.to_thread(server.start)
    watch = asyncio.ensure_future(_keep_alive(server, events))
    try:
        yield server.url
    finally:
        watch.cancel()
        await asyncio.gather(watch, return_exceptions=True)
        await asyncio.to_thread(server.stop)


async def _keep_alive(server: EmbeddedValkey, events: Events) -> None:
    while True:
        if not await _killed_as_it_hung(server, events):
            words = server.last_words()
            last = f"{server.log} ends with: {words}" if words else f"see {server.log}"
            how = ending(server.process.returncode)
            events.tell(f"Valkey ended unexpectedly ({how}) and is started again; {last}", style="yellow")
        await _revive(server, events)
        events.tell("Valkey answers again", style="green")


async def _killed_as_it_hung(server: EmbeddedValkey, events: Events) -> bool:
    """Returns once its process has ended."""
    hanging = asyncio.ensure_future(_until_it_hangs(server.url))
    killed = False
    try:
        while server.process.poll() is None:
            if hanging.done() and not killed:
                hanging.result()
                line = f"Valkey has not answered for {HANGS_S:.0f} s: it is killed and started again; see {server.log}"
                events.tell(line, style="yellow")
                server.process.kill()
                killed = True
            await asyncio.sleep(STORE_WATCH_S)
        return killed
    finally:
        hanging.cancel()
        await asyncio.gather(hanging, return_exceptions=True)


async def _until_it_hangs(url: str) -> None:
    silence = Silence(HANGS_S, 3 * PING_S)
    # One connection, kept: a server that has no room for more clients still answers this one.
    client = Redis.from_url(url, retry=Retry(NoBackoff(), 0), socket_timeout=PING_S, socket_connect_timeout=PING_S)
    async with client:
        last = time.monotonic()
        while True:
            await asyncio.sleep(PING_S)
            answered = await _answers(client)
            now = time.monotonic()
            if silence.too_long(answered=answered, passed=now - last):
                return
            last = now


async def _answers(client: Redis) -> bool:
    try:
        await client.ping()
    except (ResponseError, BusyLoadingError):  # it refuses, so it lives
        return True
    except (RedisError, OSError):
        return False
    return True


async def _revive(server: EmbeddedValkey, events: Events) -> None:
    """A start that fails (a full disk, say) is tried again for as long as the tree lives: everything else waits for the store too."""
    told = False
    while True:
        try:
            await asyncio.to_thread(server.start)
            return
        except (HeadraceError, OSError) as error:
            if not told:
                events.tell(f"Valkey cannot be started again yet: {error}", style="red")
            told = True
            await asyncio.sleep(STORE_RETRY_S)
