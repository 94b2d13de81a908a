"""The meters of a queue in memory: one for all its jobs, and one for each tenant that has live ones."""

from headrace.queues import rules
from headrace.queues.meter import Meter
from headrace.queues.rules import Bound, QueueLimits
from headrace.request import Request


class Meters:
    def __init__(self) -> None:
        self._all = Meter()
        self._tenants: dict[str, Meter] = {}

    def admit(self, request: Request, limits: QueueLimits, now: int, *, of_tenant: bool) -> None:
        """Count a new job, within its tenant's bounds too if these count. Raises QueueFull, TenantFull, RequestTooLarge; then nothing is
        counted."""
        own = self._tenants.get(request.tenant) or Meter()
        bounds = list(zip(Bound, (self._all, self._all, own, own), strict=True))
        for bound, meter in bounds if of_tenant else bounds[:2]:
            _keep_below(bound, rules.limit_of(bound, limits), meter, request.cost, now)
        self._tenants[request.tenant] = own
        for meter in (self._all, own):
            meter.enter(request.cost, now)

    def leave(self, tenant: str, cost: int, now: int) -> None:
        """A job of this cost has ended."""
        for meter in (self._all, self._tenants[tenant]):
            meter.leave(cost, now)
        if self._tenants[tenant].live == 0:
            del self._tenants[tenant]


def _keep_below(bound: Bound, limit: int, meter: Meter, cost: int, now: int) -> None:
    drained = meter.drained(now)
    if bound in (Bound.JOBS, Bound.TENANT_JOBS):
        current, more, left = meter.live, 1, drained.jobs
    else:
        current, more, left = meter.cost, cost, drained.cost
    if current + more > limit:
        raise rules.refusal(bound, limit, cost=cost, current=current, drained=left, span_ms=drained.span_ms)
