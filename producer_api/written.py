"""Writes to the store on behalf of a caller."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from headrace.errors import QueueUnavailable

_REPEAT_AFTER_S = 0.1

T = TypeVar("T")


async def written(write: Callable[[], Awaitable[T]]) -> T:
    """The answer to an idempotent write, repeated once after QueueUnavailable; then it raises that."""
    try:
        return await write()
    except QueueUnavailable:
        # It may be stored all the same. Once more, with the same id: most outages are one lost connection, and a caller who is told 503
        # after the object was stored creates it twice.
        await asyncio.sleep(_REPEAT_AFTER_S)
        return await write()
