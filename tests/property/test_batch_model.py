"""Random histories of batches: several holders, leases that run out, cancels, lost replies. After every call all batches are compared.

The model knows of each batch who may write it and when it is due, and of statuses only the table in `headrace/batch.py`.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import hypothesis.strategies as st
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from headrace.batch import BATCH_ENDED, BATCH_TRANSITIONS, Batch, BatchStatus
from headrace.batch_ports import BatchLease
from headrace.errors import BatchLeaseLost, BatchNotCancellable
from headrace.testing.registry_bench import RegistryBench
from headrace.testing.store import Store

T = TypeVar("T")

HOLDERS = ("a", "b", "c")
LEASE_MS = 5_000
AGAIN_MS = 2_000
RETENTION_MS = 20_000
MAX_BATCHES = 4


@dataclass
class Right:
    """Who may write a batch, and when somebody should look at it."""

    due_ms: int
    holder: str | None = None
    epoch: int = 0
    """The last one given out."""
    until_ms: int = 0
    unseen: bool = False
    """The holder has not heard of the cancel."""

    def runs(self, now_ms: int) -> bool:
        return self.holder is not None and self.until_ms > now_ms

    def lease(self, until_ms: int) -> None:
        self.until_ms = self.due_ms = until_ms
        self.unseen = False


class Grant(NamedTuple):
    """A lease that somebody got, and may believe in for ever."""

    batch_id: str
    epoch: int


class BatchMachine(RuleBasedStateMachine):
    def __init__(self, make_bench: Callable[[], Awaitable[RegistryBench]]) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.bench = self.run(_awaited(make_bench()))
        self.batches: dict[str, Batch] = {}
        self.rights: dict[str, Right] = {}
        self.grants: list[Grant] = []
        self.serial = 0

    def run(self, call: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(call)

    def twice(self, repeated: bool, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """The reply of the first call is lost now and then, and the caller repeats it: the second answer must equal the first."""
        answer = self.run(make())
        if repeated:
            assert self.run(make()) == answer
        return answer

    def any_batch(self, which: int) -> str:
        return list(self.batches)[which % len(self.batches)]

    def any_grant(self, which: int) -> Grant:
        """Mostly one of the last."""
        return self.grants[-1 - which % min(len(self.grants), 6)]

    def may_write(self, grant: Grant) -> bool:
        right = self.rights.get(grant.batch_id)
        return right is not None and right.epoch == grant.epoch and (right.holder is not None or self.has_ended(grant.batch_id))

    def has_ended(self, batch_id: str) -> bool:
        return self.batches[batch_id].status in BATCH_ENDED

    # Submitters

    @precondition(lambda self: len(self.batches) < MAX_BATCHES)
    @rule()
    def create(self) -> None:
        batch_id = self.run(self.bench.created())
        self.batches[batch_id] = self.run(self.bench.batches.get("alice", batch_id))
        self.rights[batch_id] = Right(self.bench.now_ms)

    @precondition(lambda self: self.batches)
    @rule(which=st.integers(0, 99), repeated=st.booleans())
    def cancel(self, which: int, repeated: bool) -> None:
        batch_id = self.any_batch(which)
        before, right = self.batches[batch_id], self.rights[batch_id]
        if before.status is not BatchStatus.CANCELLING and BatchStatus.CANCELLING not in BATCH_TRANSITIONS[before.status]:
            try:
                self.run(self.bench.batches.cancel("alice", batch_id))
            except BatchNotCancellable:
                return
            raise AssertionError(f"cancelled when {before.status}")
        after = self.twice(repeated, lambda: self.bench.batches.cancel("alice", batch_id))
        assert after.status is BatchStatus.CANCELLING
        if before.status is not BatchStatus.CANCELLING:
            right.unseen = right.holder is not None
            right.due_ms = right.due_ms if right.runs(self.bench.now_ms) else self.bench.now_ms

    # Holders

    @precondition(lambda self: self.batches)
    @rule(which=st.integers(0, 99), holder=st.sampled_from(HOLDERS), repeated=st.booleans(), lost=st.sampled_from([False, False, True]))
    def acquire(self, which: int, holder: str, repeated: bool, lost: bool) -> None:
        batch_id = self.any_batch(which)
        right, now = self.rights[batch_id], self.bench.now_ms
        lease = self.twice(repeated, lambda: self.bench.acquire(batch_id, holder, LEASE_MS))
        if self.has_ended(batch_id) or (right.runs(now) and right.holder != holder):
            assert lease is None
            return
        epoch = right.epoch if right.runs(now) else right.epoch + 1
        assert lease == BatchLease(batch=self.batches[batch_id], epoch=epoch)
        right.holder, right.epoch = holder, epoch
        right.lease(now + LEASE_MS)
        if not lost:
            self.grants.append(Grant(batch_id, epoch))

    @precondition(lambda self: self.grants)
    @rule(which=st.integers(0, 99), status=st.sampled_from([None, *BatchStatus]), repeated=st.booleans())
    def update(self, which: int, status: BatchStatus | None, repeated: bool) -> None:
        self.write(self.any_grant(which), status, repeated)

    @precondition(lambda self: self.grants)
    @rule(which=st.integers(0, 99), choice=st.integers(0, 99))
    def go_on(self, which: int, choice: int) -> None:
        """A step that may be legal: random statuses seldom are."""
        grant = self.any_grant(which)
        if grant.batch_id in self.batches:
            onward = sorted(BATCH_TRANSITIONS[self.batches[grant.batch_id].status])
            self.write(grant, onward[choice % len(onward)] if onward else None, repeated=True)

    @precondition(lambda self: self.grants)
    @rule()
    def everybody_writes(self) -> None:
        succeeded = {grant for grant in set(self.grants) if self.write(grant, None, repeated=False)}
        assert len({grant.batch_id for grant in succeeded}) == len(succeeded), "two holders of one batch"

    def write(self, grant: Grant, status: BatchStatus | None, repeated: bool) -> bool:
        """Whether the store took it, which must be exactly where the model says so."""
        self.serial += 1
        mark, before = f"m{self.serial}", self.batches.get(grant.batch_id)
        try:
            after = self.twice(repeated, lambda: self.bench.update(grant.batch_id, grant.epoch, LEASE_MS, status=status, model=mark))
        except BatchLeaseLost:
            assert not self.may_write(grant)
            return False
        assert self.may_write(grant)
        assert before is not None
        if before.status in BATCH_ENDED:
            assert after == before
            return True
        taken = status is not None and status in BATCH_TRANSITIONS[before.status]
        assert (after.model, after.status) == (mark, status if taken else before.status)
        self.batches[grant.batch_id] = after
        right = self.rights[grant.batch_id]
        right.lease(self.bench.now_ms + LEASE_MS)
        if after.status in BATCH_ENDED:
            right.holder = None
        return True

    @precondition(lambda self: self.grants)
    @rule(which=st.integers(0, 99), delay_ms=st.sampled_from([0, 0, 3_000]), repeated=st.booleans())
    def release(self, which: int, delay_ms: int, repeated: bool) -> None:
        grant = self.any_grant(which)
        held = self.may_write(grant) and not self.has_ended(grant.batch_id)
        self.twice(repeated, lambda: self.bench.batches.release(grant.batch_id, grant.epoch, delay_ms))
        if held:
            right = self.rights[grant.batch_id]
            right.due_ms = self.bench.now_ms + (0 if right.unseen else delay_ms)
            right.holder, right.unseen = None, False

    # Time and sweeps

    @rule(ms=st.sampled_from([1, AGAIN_MS, LEASE_MS // 2, LEASE_MS, RETENTION_MS]))
    def advance(self, ms: int) -> None:
        self.run(self.bench.advance(ms))

    @rule(limit=st.sampled_from([1, 100]))
    def dispatch(self, limit: int) -> None:
        now = self.bench.now_ms
        due = {batch_id for batch_id, right in self.rights.items() if right.due_ms <= now and not self.has_ended(batch_id)}
        ids = self.run(self.bench.batches.dispatch(limit, AGAIN_MS))
        assert set(ids) <= due
        assert len(set(ids)) == len(ids) == min(limit, len(due))
        for batch_id in ids:
            assert not self.rights[batch_id].runs(now)
            self.rights[batch_id].due_ms = now + AGAIN_MS

    @rule()
    def purge(self) -> None:
        gone = self.run(self.bench.batches.purge_ended(100, RETENTION_MS))
        for batch_id in gone:
            assert self.has_ended(batch_id)
            del self.batches[batch_id], self.rights[batch_id]

    # The whole

    @invariant()
    def only_the_calls_changed_anything(self) -> None:
        ids = list(self.batches)
        now = [self.run(self.bench.batches.get("alice", batch_id)) for batch_id in ids]
        for batch_id, batch in zip(ids, now, strict=True):
            before = self.batches[batch_id]
            # The answer of a cancel is not kept: its status is the one that may have changed since.
            assert batch.status is before.status or (
                batch.status is BatchStatus.CANCELLING and batch.status in BATCH_TRANSITIONS[before.status]
            )
            assert before.status not in BATCH_ENDED or batch == before
            self.batches[batch_id] = batch
        assert self.run(self.bench.batches.standing(ids)) == [batch.status for batch in now]

    def teardown(self) -> None:
        try:
            self.run(self.bench.audit())
            self.settle()
            self.run(self.bench.audit())
        finally:
            self.run(self.bench.aclose())
            self.runner.close()

    def settle(self) -> None:
        """Every holder dies, one good one comes: he is sent to whatever has not ended, and can end it."""
        self.advance(LEASE_MS)
        live = {batch_id for batch_id in self.batches if not self.has_ended(batch_id)}
        assert set(self.run(self.bench.batches.dispatch(100, AGAIN_MS))) == live
        for batch_id in live:
            epoch = self.run(self.bench.held(batch_id, "good"))
            while onward := sorted(BATCH_TRANSITIONS[self.run(self.bench.batches.get("alice", batch_id)).status]):
                assert self.run(self.bench.update(batch_id, epoch, status=onward[0])).status is onward[0]
        self.advance(RETENTION_MS)
        assert self.run(self.bench.batches.dispatch(100, AGAIN_MS)) == []
        self.purge_all()

    def purge_all(self) -> None:
        assert set(self.run(self.bench.batches.purge_ended(100, RETENTION_MS))) == self.batches.keys()


async def _awaited(what: Awaitable[T]) -> T:
    return await what


def test_redis(valkey: Store) -> None:
    async def make() -> RegistryBench:
        return await RegistryBench.connect(valkey.url)

    class Machine(BatchMachine):
        def __init__(self) -> None:
            super().__init__(make)

    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=40,
            stateful_step_count=50,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
        ),
    )
