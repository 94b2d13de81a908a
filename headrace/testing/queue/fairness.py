"""Fairness between the tenants of one lane: virtual token counters.

Every tenant has a counter of the tokens it was served; the waiting tenant with the smallest one is next. A tenant that comes (back) to
wait is lifted to the smallest counter of those already waiting, so time spent away earns no credit, and debt is kept. While two tenants
both wait, what they were served differs by at most one job's cost. After Sheng et al., "Fairness in Serving Large Language Models" (OSDI
2024).

`headrace/queues/functions.lua` and `work.lua` do the same arithmetic inside `claim`; a property test holds the two equal.
"""


class VirtualTokens:
    """Counters of one lane.

    A lane in which nobody waits forgets all of them: where nobody waits nobody was wronged, and counters stay small. An idle tenant is only
    remembered while its counter exceeds what it would be lifted to.
    """

    def __init__(self) -> None:
        self._waiting: dict[str, int] = {}
        self._idle: dict[str, int] = {}

    def arrive(self, tenant: str) -> None:
        """`tenant`, which had nothing waiting, has now."""
        floor = min(self._waiting.values(), default=0)
        self._waiting[tenant] = max(self._idle.pop(tenant, 0), floor)

    def next(self) -> str | None:
        """The waiting tenant to serve; of equals the first by name."""
        return min(self._waiting, key=lambda tenant: (self._waiting[tenant], tenant), default=None)

    def charge(self, tenant: str, cost: int) -> None:
        """`tenant`, which waits, was served `cost` tokens."""
        self._waiting[tenant] += cost

    def leave(self, tenant: str) -> None:
        """`tenant` has nothing waiting any more."""
        self._idle[tenant] = self._waiting.pop(tenant)
        if not self._waiting:
            self._idle.clear()
            return
        floor = min(self._waiting.values())
        self._idle = {name: count for name, count in self._idle.items() if count > floor}

    def counters(self) -> dict[str, int]:
        """Of the waiting tenants."""
        return dict(self._waiting)
