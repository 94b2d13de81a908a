"""Calls that are repeated until they are answered, as any of the replicas may be away; the key makes that safe."""

import asyncio
import contextlib
import time
from typing import Any, Protocol

import httpx

from tests.chaos.replicas import GaveUp, Replicas, speaks_for


class Ordered(Protocol):
    @property
    def tenant(self) -> str: ...
    @property
    def stranger(self) -> str: ...


class Heard(Protocol):
    """Where the statuses go: of the tenant's calls, and of the stranger's."""

    statuses: list[int]
    strangers: list[int]


class Caller:
    """Speaks for whoever gave the order. `patience_s`: how long a call may stay unanswered."""

    def __init__(self, replicas: Replicas, order: Ordered, heard: Heard, patience_s: float) -> None:
        self._replicas = replicas
        self._order = order
        self._heard = heard
        self._patience_s = patience_s

    async def call(self, method: str, path: str, *, key: str = "", late: bool = False, **request: Any) -> httpx.Response:
        """`late`: it may come too late (409), and that is an answer too. Raises GaveUp, at once if it was refused for good."""
        headers = speaks_for(self._order.tenant) | ({"idempotency-key": key} if key else {})
        began = time.monotonic()
        while time.monotonic() - began < self._patience_s:
            pause_s = self._replicas.pause_s
            try:
                response = await self._replicas.next().request(method, path, headers=headers, **request)
            except httpx.TransportError:
                pass
            else:
                if late and response.status_code == httpx.codes.CONFLICT:
                    return response
                self._heard.statuses.append(response.status_code)
                if response.is_success:
                    return response
                if response.status_code not in (429, 503):
                    raise GaveUp(f"{method} {path} was answered with {response.status_code}: {response.text[:200]}")
                pause_s = self._replicas.told_to_wait(response)
            await asyncio.sleep(pause_s)
        raise GaveUp(f"{method} {path} was not answered for {self._patience_s:.0f} s")

    async def peep(self, method: str, path: str) -> None:
        """The same, once, as another tenant."""
        with contextlib.suppress(httpx.TransportError):  # it may try another time
            async with self._replicas.next().stream(method, path, headers=speaks_for(self._order.stranger)) as response:
                self._heard.strangers.append(response.status_code)
