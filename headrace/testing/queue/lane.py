"""A lane as `memory.py` keeps it."""

from bisect import bisect_left, insort

from headrace.testing.queue.fairness import VirtualTokens
from headrace.testing.queue.record import Place


class LaneQueue:
    """Jobs of one model waiting in one lane: a queue by arrival per tenant."""

    def __init__(self) -> None:
        self.fairness = VirtualTokens()
        self._queues: dict[str, list[Place]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._queues.values()))

    def put(self, tenant: str, place: Place) -> None:
        if tenant not in self._queues:
            self._queues[tenant] = []
            self.fairness.arrive(tenant)
        insort(self._queues[tenant], place)

    def head(self) -> str | None:
        tenant = self.fairness.next()
        return None if tenant is None else self._queues[tenant][0].job_id

    def rank(self, tenant: str, place: Place) -> int:
        return bisect_left(self._queues[tenant], place)

    def remove(self, tenant: str, place: Place) -> None:
        self._queues[tenant].remove(place)
        if not self._queues[tenant]:
            del self._queues[tenant]
            self.fairness.leave(tenant)
