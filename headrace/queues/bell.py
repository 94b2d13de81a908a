"""The doorbell both adapters hand out: names that rang since somebody last looked."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

CAPACITY = 65_536
"""Names kept for a reader that does not come. Rings beyond are lost, as any hint may be."""


class Bell:
    """Implements `ports.Doorbell`; one reader, any number of ringers on the same event loop."""

    def __init__(self) -> None:
        self._names: set[str] = set()
        self._rung = asyncio.Event()

    def ring(self, names: Iterable[str]) -> None:
        if len(self._names) < CAPACITY:
            self._names.update(names)
        if self._names:
            self._rung.set()

    async def wait(self, timeout: float) -> frozenset[str]:
        if not self._rung.is_set():
            try:
                await asyncio.wait_for(self._rung.wait(), timeout)
            except TimeoutError:
                return frozenset()
        names = frozenset(self._names)
        self._names.clear()
        self._rung.clear()
        return names


class Bells:
    """Everybody who listens for one kind of names."""

    def __init__(self) -> None:
        self._bells: set[Bell] = set()

    def ring(self, names: Iterable[str]) -> None:
        named = tuple(names)
        for bell in self._bells:
            bell.ring(named)

    @asynccontextmanager
    async def doorbell(self) -> AsyncIterator[Bell]:
        bell = Bell()
        self._bells.add(bell)
        try:
            yield bell
        finally:
            self._bells.remove(bell)
