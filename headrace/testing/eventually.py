"""Waiting for a state that other tasks bring about, without a fixed sleep."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


async def eventually(condition: Callable[[], Awaitable[T | None]], within: float = 20.0, pause: float = 0.0) -> T:
    """The first true answer of `condition`; other tasks run between two looks, for at least `pause` seconds. Raises TimeoutError."""
    async with asyncio.timeout(within):
        while True:
            if found := await condition():
                return found
            await asyncio.sleep(pause)
