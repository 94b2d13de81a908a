"""Acceptance through a log, with a log and a store that fail in every order. The pump is whoever admits what the log has."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from headrace.errors import IdempotencyConflict, LogUnavailable, QueueFull, QueueUnavailable, RequestTooLarge
from headrace.kafka.acceptance import Acceptance
from headrace.ports import Accepted, Submission
from headrace.queues.rules import QueueLimits
from headrace.testing.bench import MemoryBench
from headrace.testing.outages import cut_off, lose_replies

WRITES, LOSES, REFUSES, OVERSIZE = "writes", "writes and loses the acknowledgement", "refuses", "is too large for it"


class Site:
    """A log in memory that does with each append what `fate` says."""

    def __init__(self, limits: QueueLimits | None = None) -> None:
        self.bench = MemoryBench(limits or QueueLimits())
        self.log: list[Submission] = []
        self.fate = WRITES
        self.between: Callable[[], Awaitable[None]] | None = None
        """What happens while the log has the record and nobody knows."""
        self.down = False
        self._acceptance = Acceptance(self.bench.queue, self.check, self.append)

    def check(self) -> None:
        if self.down:
            raise LogUnavailable("away")

    async def append(self, submission: Submission) -> None:
        await asyncio.sleep(0)
        if self.fate == OVERSIZE:
            raise RequestTooLarge("too large")
        if self.fate != REFUSES:
            self.log.append(submission)
        if self.between is not None:
            await self.between()
        if self.fate != WRITES:
            raise LogUnavailable("no acknowledgement")

    async def accept(self, submission: Submission) -> Accepted:
        return await self._acceptance.accept(submission)

    async def pump(self) -> None:
        for submission in self.log:
            await self.bench.queue.admit(submission)

    async def claimed(self) -> list[str]:
        return [claim.request.id for claim in await self.bench.claim()]


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    site = Site()
    yield site
    await site.bench.audit()


@pytest.mark.parametrize("key", [None, "k"])
async def test_it_is_in_the_log_and_in_its_lane(site: Site, key: str | None) -> None:
    submission = site.bench.submission(key=key)
    assert await site.accept(submission) == Accepted(submission.request.id, replayed=False)
    assert site.log == [submission]
    await site.pump()
    assert await site.claimed() == [submission.request.id]


async def test_bounds_and_conflicts_are_told_before_the_log_hears_of_it(site: Site) -> None:
    await site.accept(site.bench.submission(key="k"))
    with pytest.raises(IdempotencyConflict):
        await site.accept(site.bench.submission(key="k", body_hash="other"))
    full = Site(QueueLimits(max_live_jobs=1))
    await full.accept(full.bench.submission())
    with pytest.raises(QueueFull):
        await full.accept(full.bench.submission())
    assert len(site.log) == len(full.log) == 1


async def test_while_the_log_is_known_to_be_away_nothing_is_kept(site: Site) -> None:
    site.down = True
    for key in ("k", None):
        with pytest.raises(LogUnavailable):
            await site.accept(site.bench.submission(key=key))
    assert (await site.bench.queue.load()).cost == 0
    site.down = False
    submission = site.bench.submission(key="k")
    assert await site.accept(submission) == Accepted(submission.request.id, replayed=False)


@pytest.mark.parametrize("fate", [LOSES, REFUSES])
async def test_without_a_key_what_was_not_acknowledged_never_runs(site: Site, fate: str) -> None:
    site.fate = fate
    with pytest.raises(LogUnavailable):
        await site.accept(site.bench.submission())
    await site.pump()
    assert await site.claimed() == []
    assert (await site.bench.queue.load()).cost == 0
    assert await site.bench.outbox() == []


@pytest.mark.parametrize("fate", [LOSES, REFUSES])
async def test_with_a_key_the_repeat_is_the_same_job_and_runs_once(site: Site, fate: str) -> None:
    first, again = site.bench.submission(key="k"), site.bench.submission(key="k")
    site.fate = fate
    with pytest.raises(LogUnavailable):
        await site.accept(first)
    assert await site.claimed() == []
    site.fate = WRITES
    assert await site.accept(again) == Accepted(first.request.id, replayed=True)
    assert {submission.request for submission in site.log} == {first.request}, "both records are of the first request"
    await site.pump()
    assert await site.claimed() == [first.request.id]
    await site.pump()
    assert await site.claimed() == []


async def test_with_a_key_what_was_written_runs_even_if_nobody_repeats_it(site: Site) -> None:
    submission = site.bench.submission(key="k")
    site.fate = LOSES
    with pytest.raises(LogUnavailable):
        await site.accept(submission)
    await site.pump()
    assert await site.claimed() == [submission.request.id]
    assert (await site.accept(site.bench.submission(key="k"))).replayed
    assert len(site.log) == 1, "what was admitted is not written again"


async def test_a_pump_that_is_faster_than_our_patience_makes_it_accepted(site: Site) -> None:
    submission = site.bench.submission()
    site.fate, site.between = LOSES, site.pump
    assert await site.accept(submission) == Accepted(submission.request.id, replayed=False)
    assert await site.claimed() == [submission.request.id]


async def test_one_that_failed_takes_nothing_from_another_with_its_key(site: Site) -> None:
    """Two calls with one key at once; only the second is acknowledged, and the first gives up after that."""
    first, second = site.bench.submission(key="k"), site.bench.submission(key="k")
    answered: list[Accepted] = []

    async def other_call() -> None:
        site.fate, site.between = WRITES, None
        cut = site.bench.queue.admit
        cut_off(site.bench.queue, "admit")
        answered.append(await site.accept(second))
        site.bench.queue.admit = cut  # type: ignore[method-assign]
        site.fate = LOSES

    site.fate, site.between = LOSES, other_call
    with pytest.raises(LogUnavailable):
        await site.accept(first)
    assert answered == [Accepted(first.request.id, replayed=True)]
    await site.pump()
    assert await site.claimed() == [first.request.id]


async def test_a_store_that_is_lost_after_the_log_has_it_is_no_failure(site: Site) -> None:
    submission = site.bench.submission()
    admit = site.bench.queue.admit
    cut_off(site.bench.queue, "admit")
    assert await site.accept(submission) == Accepted(submission.request.id, replayed=False)
    site.bench.queue.admit = admit  # type: ignore[method-assign]
    assert await site.claimed() == []
    await site.pump()
    assert await site.claimed() == [submission.request.id]


@pytest.mark.parametrize("method", ["reserve", "admit"])
async def test_lost_replies_of_the_store_double_nothing(site: Site, method: str) -> None:
    submission = site.bench.submission()
    lose_replies(site.bench.queue, method, 1)
    if method == "reserve":
        with pytest.raises(QueueUnavailable):
            await site.accept(submission)
    await site.accept(submission)
    await site.pump()
    assert await site.claimed() == [submission.request.id]


async def test_a_withdrawal_that_is_lost_leaves_a_reservation_that_lapses(site: Site) -> None:
    site.fate = REFUSES
    withdraw = site.bench.queue.withdraw
    cut_off(site.bench.queue, "withdraw")
    with pytest.raises(LogUnavailable):
        await site.accept(site.bench.submission())
    site.bench.queue.withdraw = withdraw  # type: ignore[method-assign]
    assert await site.claimed() == []
    await site.bench.advance(3_600_000)
    assert await site.bench.queue.forget_lapsed(100) == 1
    assert (await site.bench.queue.load()).cost == 0


@pytest.mark.parametrize("key", [None, "k"])
async def test_one_that_the_log_can_never_take_leaves_nothing(site: Site, key: str | None) -> None:
    site.fate = OVERSIZE
    with pytest.raises(RequestTooLarge):
        await site.accept(site.bench.submission(key=key))
    assert (await site.bench.queue.load()).cost == 0


async def test_a_store_that_was_wiped_between_has_it_all_the_same(site: Site) -> None:
    submission = site.bench.submission(key="k")

    async def wiped() -> None:
        await site.bench.queue.withdraw("alice", submission.request.id)
        await site.bench.advance(86_400_001)  # its tombstone is gone too

    site.between = wiped
    assert (await site.accept(submission)).job_id == submission.request.id
    assert await site.claimed() == [submission.request.id]
