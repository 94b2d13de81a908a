"""The clients, so many of them at a time."""

import asyncio
from collections.abc import Iterator, Sequence

from tests.chaos.client import Client
from tests.chaos.history import Record
from tests.chaos.orders import Order
from tests.chaos.replicas import Replicas


class Load:
    def __init__(self, replicas: Replicas, *, at_once: int, patience_s: float) -> None:
        self.records: list[Record] = []
        """Of the orders that are over."""
        self._replicas = replicas
        self._at_once = at_once
        self._patience_s = patience_s
        self._moved = asyncio.Condition()

    async def run(self, orders: Sequence[Order]) -> None:
        """Returns once all of them are over."""
        waiting = iter(orders)
        async with asyncio.TaskGroup() as group:
            for _ in range(self._at_once):
                group.create_task(self._one_after_the_other(waiting))

    async def reaches(self, ended: int) -> None:
        """Returns once so many orders are over."""
        async with self._moved:
            await self._moved.wait_for(lambda: len(self.records) >= ended)

    async def _one_after_the_other(self, waiting: Iterator[Order]) -> None:
        for order in waiting:
            record = await Client(self._replicas, order, self._patience_s).run()
            async with self._moved:
                self.records.append(record)
                self._moved.notify_all()
