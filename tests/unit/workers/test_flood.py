"""One tenant sends far more than can run. Measured in steps of the engine, which take no time: what does the other one notice of it?"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from headrace.errors import QueueFull
from headrace.queues.rules import QueueLimits
from headrace.request import Request
from headrace.testing.builders import make_request, make_submission
from headrace.testing.eventually import eventually
from headrace.testing.queue.memory import MemoryQueue
from tests.at_work import InlineEngine, working
from workers.backends.scripted import ScriptedEngine
from workers.ports import Delta

SLOTS = 4
TOKENS = 20


class Stepped(ScriptedEngine):
    """Counts its steps, calls `each` before them, and notes in which one a job's first token and its last one came."""

    def __init__(self, each: Callable[[int], None]) -> None:
        super().__init__(max_running=SLOTS)
        self.now = 0
        self.first: dict[str, int] = {}
        self.last: dict[str, int] = {}
        self._each = each

    def step(self, timeout: float) -> list[Delta]:
        if not self._runs:
            return []
        self.now += 1
        self._each(self.now)
        deltas = super().step(timeout)
        for delta in deltas:
            job_id = delta.request_id.partition("@")[0]
            self.first.setdefault(job_id, self.now)
            self.last[job_id] = self.now
        return deltas


@asynccontextmanager
async def stepping(queue: MemoryQueue, each: Callable[[int], None]) -> AsyncIterator[Stepped]:
    engine = Stepped(each)
    async with working(queue, engine, thread=InlineEngine):
        yield engine


def request_of(tenant: str) -> Request:
    return make_request(tenant=tenant, max_tokens=TOKENS)


async def steps_to_first_token(flood: int) -> int:
    """Of another tenant's job, submitted in step 5 of the flood."""
    queue, other = MemoryQueue(), request_of("other")
    for _ in range(flood):
        await queue.accept(make_submission(request_of("flood")))
    tasks = []

    def each(step: int) -> None:
        if step == 5:
            tasks.append(asyncio.ensure_future(queue.accept(make_submission(other))))

    async with stepping(queue, each) as engine:
        await eventually(lambda: asyncio.sleep(0, other.id in engine.first))
        await asyncio.gather(*tasks)
    return engine.first[other.id] - 5


async def test_the_others_first_token_comes_with_the_next_free_place_however_long_the_flood() -> None:
    alone = await steps_to_first_token(flood=1)
    assert alone <= 2
    short, long = await steps_to_first_token(flood=2 * SLOTS), await steps_to_first_token(flood=200 * SLOTS)
    assert short == long
    assert long <= alone + TOKENS


@pytest.mark.parametrize("rush", [2, 50])
async def test_what_is_accepted_waits_no_longer_however_much_is_refused(rush: int) -> None:
    """Bounds on what is live are bounds on how long it waits: the tail does not grow with what is offered."""
    live = 5 * SLOTS
    queue = MemoryQueue(limits=QueueLimits(max_live_jobs=live))
    accepted: dict[str, int] = {}
    refused = 0
    submitters: set[asyncio.Task[None]] = set()

    async def submit(step: int) -> None:
        nonlocal refused
        request = request_of("flood")
        try:
            await queue.accept(make_submission(request))
        except QueueFull:
            refused += 1
        else:
            accepted[request.id] = step

    def each(step: int) -> None:
        submitters.update(asyncio.ensure_future(submit(step)) for _ in range(rush))

    await submit(0)
    async with stepping(queue, each) as engine:
        await eventually(lambda: asyncio.sleep(0, engine.now > 30 * TOKENS))
        early = [job_id for job_id, step in accepted.items() if step < 20 * TOKENS]
    await asyncio.gather(*submitters)
    assert refused > len(accepted)
    assert len(early) > 3 * live
    turns = live // SLOTS
    assert max(engine.last[job_id] - accepted[job_id] for job_id in early) <= (turns + 1) * TOKENS
