"""The API as its clients know it: several addresses, any of which may be away."""

import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import httpx

TIMEOUT_S = 12.0
"""Silence on a connection after which it is given up; streams are pinged every second, and a call to a store that is away takes ten."""
CHAT_ID = "chatcmpl-"


class GaveUp(Exception):
    """A client lost its patience, or was refused for good."""


class Replicas:
    def __init__(self, clients: Sequence[httpx.AsyncClient], model: str) -> None:
        self._turns = itertools.cycle(clients)
        self.model = model
        self.pause_s = 0.2
        """Between two attempts."""
        self.pauses: list[tuple[float, float]] = []
        """Where answers stood still, from and to, by time.monotonic."""

    def next(self) -> httpx.AsyncClient:
        """In turns, so that whoever comes back meets another one, as often as not."""
        return next(self._turns)

    def told_to_wait(self, response: httpx.Response) -> float:
        """Seconds. A client of the real world would wait for all of the Retry-After; ours are in a hurry to be there for the next fault."""
        return min(1.0, float(response.headers.get("retry-after", self.pause_s)))


@asynccontextmanager
async def replicas_at(urls: Sequence[str], model: str) -> AsyncIterator[Replicas]:
    # Few are kept: httpx looks through all of them at every request.
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=4)
    async with AsyncExitStack() as stack:
        clients = [httpx.AsyncClient(base_url=url, timeout=TIMEOUT_S, limits=limits, trust_env=False) for url in urls]
        for client in clients:
            await stack.enter_async_context(client)
        yield Replicas(clients, model)


def api_key(tenant: str) -> str:
    return f"key-of-{tenant}"


def speaks_for(tenant: str) -> dict[str, str]:
    """Header of a call."""
    return {"authorization": f"Bearer {api_key(tenant)}"}


def bare_id(answer_id: str) -> str:
    return answer_id.removeprefix(CHAT_ID)
