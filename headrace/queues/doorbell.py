"""Doorbells over Redis pub/sub. They are hints: a lost connection costs their readers waiting time and nothing else."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress

from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis.exceptions import ConnectionError, RedisError

from headrace.errors import QueueUnavailable
from headrace.queues.bell import Bell
from headrace.queues.lost_connection import as_os_error

log = logging.getLogger(__name__)

PING_S = 5.0
"""Silence after which the server is asked for a sign of life; as long again without one, and the connection counts as dead (half-open)."""
SUBSCRIBE_S = 5.0
_BACKOFF_S = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


@asynccontextmanager
async def doorbell(client: Redis, channel: str) -> AsyncIterator[Bell]:
    """A bell that rings with every name published on `channel`, over connections of `client`, which it closes.

    Names on the wire are separated by spaces. Raises QueueUnavailable if the first subscription fails; later ones are tried for ever.
    """
    bell = Bell()
    async with client:
        try:
            subscription = await _subscribe(client, channel)
        except (RedisError, OSError) as error:
            raise QueueUnavailable(f"cannot subscribe to {channel}: {error}") from error
        reader = asyncio.create_task(_listen(client, subscription, channel, bell), name=f"doorbell {channel}")
        try:
            yield bell
        finally:
            await _stop(reader)


async def _stop(reader: asyncio.Task[None]) -> None:
    """redis-py loses a cancellation that meets a connection just broken, so one is not always enough."""
    while not reader.done():
        reader.cancel()
        await asyncio.wait({reader}, timeout=0.1)
    if not reader.cancelled():
        reader.result()


async def _subscribe(client: Redis, channel: str) -> PubSub:
    """Returns once the server has confirmed it: what is published from now on arrives."""
    async with AsyncExitStack() as on_failure:
        subscription: PubSub = await on_failure.enter_async_context(client.pubsub())
        with as_os_error():
            await subscription.subscribe(channel)
            if await subscription.get_message(timeout=SUBSCRIBE_S) is None:
                raise ConnectionError("no answer to SUBSCRIBE")
        on_failure.pop_all()
    return subscription


async def _listen(client: Redis, subscription: PubSub, channel: str, bell: Bell) -> None:
    """Ring, and subscribe anew whenever the connection is lost. Rings missed meanwhile are not made up for: their readers look anyway."""
    while True:
        async with subscription:
            try:
                with as_os_error():
                    await _ring(subscription, bell)
            except (RedisError, OSError) as error:
                log.warning("lost %s, subscribing again: %s", channel, error)
        subscription = await _resubscribe(client, channel)
        log.info("%s is heard again", channel)


async def _ring(subscription: PubSub, bell: Bell) -> None:
    """Pass messages on until the connection fails. redis-py has no watchdog of its own for an idle subscription."""
    asked = False
    while True:
        message = await subscription.get_message(timeout=PING_S)
        if message is None and asked:
            raise ConnectionError("no answer to PING")
        asked = message is None
        if message is None:
            await subscription.ping()
        elif message["type"] == "message":
            bell.ring(message["data"].decode().split())


async def _resubscribe(client: Redis, channel: str) -> PubSub:
    attempt = 0
    while True:
        await asyncio.sleep(_BACKOFF_S[min(attempt, len(_BACKOFF_S) - 1)])
        attempt += 1
        with suppress(RedisError, OSError):
            return await _subscribe(client, channel)
