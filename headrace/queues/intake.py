"""How requests get into the store: at once, or withheld until a log has them."""

from typing import Any, NoReturn

from headrace.ids import shard_of
from headrace.ports import Accepted, Reserved, Submission
from headrace.queues import rules
from headrace.queues.rules import Bound
from headrace.queues.shards import Shards
from headrace.request import encode_request


class RedisIntake(Shards):
    """Implements Intake, and `accept` of JobQueue."""

    async def accept(self, submission: Submission) -> Accepted:
        answer, what = await self._take_in("accept", submission)
        return Accepted(what, replayed=answer == b"replay")

    async def reserve(self, submission: Submission) -> Reserved:
        _, what, withheld = await self._take_in("reserve", submission, self._limits.reservation_ms)
        return Reserved(what, withheld=bool(withheld))

    async def admit(self, submission: Submission) -> Accepted:
        answer, what = await self._take_in("admit", submission)
        return Accepted(what, replayed=answer == b"replay")

    async def withdraw(self, tenant: str, job_id: str) -> bool:
        return bool(await self._call(self._shard(job_id), "withdraw", tenant, job_id, self._limits.retention_ms))

    async def generation(self) -> int:
        # Begun here and there only, it is begun again.
        return min(int(generation or 0) for generation in await self._everywhere("generation"))

    async def begin_generation(self, generation: int) -> None:
        rules.check_generation(generation)
        await self._everywhere("begin_generation", generation)

    async def _take_in(self, function: str, submission: Submission, *more: Any) -> tuple[Any, ...]:
        """The function's answer, with the id in text. Raises what it refuses with."""
        request, key, limits = submission.request, submission.idempotency_key, self._limits
        rules.check_request(request, self._shards)
        answer, what, *others = await self._call(
            shard_of(request.id),
            function,
            *(request.id, request.tenant, request.model, request.lane, int(request.attended)),
            *(int(key is not None), key or "", submission.body_hash),
            *(request.room, request.cost, submission.ttl_ms, limits.viewer_grace_ms),
            *(rules.limit_of(bound, limits) for bound in Bound),
            *(encode_request(request), *more),
        )
        if answer == b"conflict":
            raise rules.conflict(what.decode())
        if answer == b"full":
            self._refuse(Bound(what.decode()), request.cost, *others)
        return answer, what.decode(), *others

    def _refuse(self, bound: Bound, cost: int, current: int, drained: int, span_ms: int) -> NoReturn:
        limit = rules.limit_of(bound, self._limits)
        raise rules.refusal(bound, limit, cost=cost, current=current, drained=drained, span_ms=span_ms)
