"""A connection to the Redis or Valkey server that holds a library of functions."""

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib import resources
from typing import Any, Self

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError, NoPermissionError, OutOfMemoryError, ReadOnlyError, RedisError, ResponseError, TimeoutError

from headrace.errors import QueueFull, QueueUnavailable, SettingsError
from headrace.queues.lost_connection import as_os_error
from headrace.queues.rules import NO_MEMORY_RETRY_S

logger = logging.getLogger(__name__)

CONNECTIONS = 64
"""Sockets of one process. Calls beyond wait their turn: a burst of a thousand submissions must not open a thousand connections."""
REPLY_S = 5.0
"""A server that has not answered for this long counts as gone."""

_UNAVAILABLE = (ConnectionError, TimeoutError, ReadOnlyError, NoPermissionError, OSError)
_UNAVAILABLE_CODES = ("BUSY", "CLUSTERDOWN", "LOADING", "MASTERDOWN", "MISCONF", "NOREPLICAS", "READONLY", "TRYAGAIN", "UNKILLABLE")

_SAFE = {
    "appendonly": ("yes", "loses what was accepted when it is restarted"),
    "maxmemory-policy": ("noeviction", "drops what was accepted once its memory is full"),
}
"""Settings of the server as they must be, and what it does otherwise."""

Command = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Library:
    """Functions that the server runs. Several libraries live beside each other, each under its own name."""

    name: str
    """As the text's first line has it; every function is called `<name>_<function>`."""
    text: str

    @classmethod
    def read(cls, name: str, package: str, *files: str) -> Self:
        """The files of the package are one Lua chunk, in this order."""
        folder = resources.files(package)
        return cls(name, "\n".join(folder.joinpath(f"{file}.lua").read_text() for file in files))


def check_url(url: str, name: str = "HEADRACE_REDIS_URL") -> None:
    """Raises SettingsError, which calls it `name`, for what is no URL of a server."""
    try:
        parse_url(url)
    except ValueError:
        # Its text may hold a part of the URL, and the URL a password.
        raise SettingsError(f"{name} must be a redis://, rediss:// or unix:// URL with a valid port and database") from None


class Server:
    """Sends commands, many in one round trip, and puts the library back should the server have lost it, or have an older text of it."""

    def __init__(self, url: str, library: Library) -> None:
        self._url = url
        self._library = library
        self._client = self.new_client()

    @classmethod
    async def connect(cls, url: str, library: Library) -> Self:
        """Raises SettingsError for a bad URL, QueueUnavailable."""
        server = cls(url, library)
        try:
            await server.install()
        except BaseException:
            await server.aclose()
            raise
        return server

    async def aclose(self) -> None:
        await self._client.aclose()

    def new_client(self) -> Redis:
        """A client with connections of its own, which its user closes.

        redis-py's retries are off: they would repeat a command whose reply was lost, where the caller is to decide. RESP2, as its replies
        have the same shape in every release of redis-py.
        """
        options: dict[str, Any] = {"socket_timeout": REPLY_S, "socket_connect_timeout": REPLY_S, "protocol": 2}
        check_url(self._url)
        pool = BlockingConnectionPool.from_url(
            self._url, max_connections=CONNECTIONS, timeout=REPLY_S, retry=Retry(NoBackoff(), 0), **options
        )
        return Redis.from_pool(pool)

    def call(self, function: str, key: str, *arguments: Any) -> Command:
        """The command that calls a function of the library; `key` says which slot all its keys are in."""
        return "FCALL", f"{self._library.name}_{function}", 1, key, *arguments

    async def run(self, *commands: Command) -> list[Any]:
        """The replies. Raises QueueUnavailable or QueueFull, and then any of the commands may have been carried out."""
        replies = await self._send(commands)
        missing = [i for i, reply in enumerate(replies) if isinstance(reply, ResponseError) and "Function not found" in str(reply)]
        if missing:  # the server was replaced, its functions flushed, or an older process loaded its own: these commands did nothing
            await self.install()
            for i, reply in zip(missing, await self._send([commands[i] for i in missing]), strict=True):
                replies[i] = reply
        for reply in replies:
            if isinstance(reply, Exception):
                raise _translated(reply)
        return replies

    async def _send(self, commands: Sequence[Command]) -> list[Any]:
        """Errors of single commands stand among the replies. Raises QueueUnavailable if there are none."""
        pipeline = self._client.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        try:
            with as_os_error():
                replies: list[Any] = await pipeline.execute(raise_on_error=False)
        except (RedisError, OSError) as error:
            raise _translated(error) from error
        return replies

    async def install(self) -> None:
        """Load the library unless the server has this very text of it. Raises QueueUnavailable."""
        replies = await self._send([("FUNCTION", "LIST", "LIBRARYNAME", self._library.name, "WITHCODE")])
        found = replies[0]
        if isinstance(found, list) and (not found or self._library.text.encode() not in found[0]):
            replies = await self._send([("FUNCTION", "LOAD", "REPLACE", self._library.text)])
        if isinstance(replies[0], Exception):
            # A server out of memory refuses the library too. That is not the caller's "full", whose write it may have to take.
            raise QueueUnavailable(f"the state store does not take the function library: {replies[0]}")

    async def warn_of_losses(self) -> None:
        """Say which of the server's settings let it lose what it has acknowledged. One that is away, or that forbids to ask, is left be."""
        try:
            found = (await self._send([("CONFIG", "GET", *_SAFE)]))[0]
        except QueueUnavailable:
            return
        if isinstance(found, Exception):
            return
        for name, value in zip(found[::2], found[1::2], strict=True):
            setting, is_now = name.decode(), value.decode()
            if setting in _SAFE and is_now != _SAFE[setting][0]:
                safe, loses = _SAFE[setting]
                logger.warning("the state store %s: its %s is %s and should be %s", loses, setting, is_now, safe)


@asynccontextmanager
async def serving(url: str, library: Library) -> AsyncIterator[Server]:
    """A server, closed at the end. Raises SettingsError for a bad URL.

    It need not be there yet: until it is, calls raise QueueUnavailable, and the first one that meets it without our functions brings them
    along.
    """
    server = Server(url, library)
    try:
        try:
            await server.install()
        except QueueUnavailable as error:
            logger.warning("going on without the state store for now: %s", error)
        yield server
    finally:
        await server.aclose()


def _translated(error: Exception) -> Exception:
    """Our name for what the server or the connection said; a fault of the functions themselves stays what it is."""
    if isinstance(error, OutOfMemoryError) or str(error).startswith("OOM"):
        return QueueFull("the state store has reached its memory limit", retry_after=NO_MEMORY_RETRY_S)
    if isinstance(error, _UNAVAILABLE) or str(error).startswith(_UNAVAILABLE_CODES):
        return QueueUnavailable(f"the state store did not answer: {error}")
    return error
