"""The batches of a run, beside the other load."""

import asyncio
from collections.abc import Sequence

from tests.chaos.batch_client import BatchClient
from tests.chaos.batch_history import BatchRecord
from tests.chaos.batch_orders import BatchOrder
from tests.chaos.load import Load
from tests.chaos.orders import TENANTS
from tests.chaos.replicas import Replicas, speaks_for


class BatchLoad:
    def __init__(self, replicas: Replicas, load: Load, patience_s: float) -> None:
        self.records: list[BatchRecord] = []
        """Of the batches that are over."""
        self._replicas = replicas
        self._load = load
        self._patience_s = patience_s

    async def run(self, orders: Sequence[BatchOrder]) -> None:
        """Each begins when the other load is so far. Returns once all of them are over."""
        async with asyncio.TaskGroup() as group:
            for order in orders:
                group.create_task(self._in_its_time(order))

    async def list(self) -> frozenset[str]:
        """Ids of the batches that there are, whoever made them. For when nothing is at fault any more."""
        found: set[str] = set()
        for tenant in TENANTS:
            after: dict[str, str] = {}
            while True:
                answer = await self._replicas.next().get("/v1/batches", params={"limit": 100, **after}, headers=speaks_for(tenant))
                page = answer.raise_for_status().json()
                found.update(batch["id"] for batch in page["data"])
                if not page["has_more"]:
                    break
                after = {"after": page["last_id"]}
        return frozenset(found)

    async def _in_its_time(self, order: BatchOrder) -> None:
        await self._load.reaches(order.after)
        self.records.append(await BatchClient(self._replicas, order, self._patience_s).run())
