"""The dispatcher against clerks that are idle, busy or away."""

import logging
from collections import deque
from typing import cast

import pytest

from headrace.batch_ports import BatchWork
from headrace.errors import QueueUnavailable
from scheduler.dispatcher import AGAIN_MS, AHEAD, SWEEP_S, Dispatcher, Look
from scheduler.front import PATIENCE_S

SWEEP = "sweep"


class Batches:
    """Batches that are never done: whoever was dispatched is due again after a while, behind those that wait already."""

    def __init__(self, count: int) -> None:
        self.now_ms = 0
        self._due = {f"batch-{number}": number for number in range(count)}

    async def dispatch(self, limit: int, again_ms: int) -> list[str]:
        due = sorted((at, batch_id) for batch_id, at in self._due.items() if at <= self.now_ms)
        chosen = [batch_id for _, batch_id in due[:limit]]
        self._due.update(dict.fromkeys(chosen, self.now_ms + again_ms))
        return chosen

    async def live(self) -> int:
        return len(self._due)

    def give_back(self, batch_id: str) -> None:
        self._due[batch_id] = self.now_ms


class Clerks:
    def __init__(self) -> None:
        self.tasks: deque[str] = deque()
        self.away = False
        self.taken = 0

    def waiting(self) -> list[str]:
        if self.away:
            raise QueueUnavailable("connection refused")
        return [f"task-{number}" for number in range(self.taken, self.taken + len(self.tasks))]

    def work_on(self, batch_id: str) -> None:
        self.tasks.append(batch_id)

    def sweep(self) -> None:
        self.tasks.append(SWEEP)

    def take(self) -> str:
        self.taken += 1
        return self.tasks.popleft()


def dispatcher_of(batches: Batches, clerks: Clerks, looks: list[Look | None] | None = None) -> Dispatcher:
    looked = (looks if looks is not None else []).append
    return Dispatcher(cast(BatchWork, batches), clerks, interval=0.5, clock=lambda: batches.now_ms / 1_000, looked=looked)


async def test_however_many_batches_there_are_each_has_its_turn() -> None:
    """One clerk that takes a second for each turn, for ten minutes; the list of tasks stays short and nobody waits for long."""
    batches, clerks = Batches(20), Clerks()
    dispatcher = dispatcher_of(batches, clerks)
    seen: dict[str, int] = {}
    longest_wait = 0
    for second in range(600):
        for half in range(2):
            batches.now_ms = 1_000 * second + 500 * half
            await dispatcher.tick()
            assert len(clerks.tasks) <= AHEAD
        task = clerks.take()
        longest_wait = max(longest_wait, second - seen.get(task, 0)) if task != SWEEP else longest_wait
        seen[task] = second
        if task != SWEEP:
            batches.give_back(task)
    assert len(seen) == 20 + 1
    assert longest_wait <= 20 + AHEAD + AGAIN_MS // 1_000


async def test_a_sweep_comes_now_and_then_and_before_the_batches() -> None:
    batches, clerks = Batches(20), Clerks()
    dispatcher = dispatcher_of(batches, clerks)
    await dispatcher.tick()
    assert list(clerks.tasks) == [SWEEP, *(f"batch-{number}" for number in range(1))]
    clerks.tasks.clear()
    batches.now_ms = int(SWEEP_S * 1_000)
    await dispatcher.tick()
    assert clerks.tasks[0] == SWEEP
    assert len(clerks.tasks) == AHEAD


async def test_where_nobody_takes_tasks_none_are_heaped_up() -> None:
    batches, clerks = Batches(3), Clerks()
    dispatcher = dispatcher_of(batches, clerks)
    for minute in range(100):
        batches.now_ms = 60_000 * minute
        await dispatcher.tick()
    assert len(clerks.tasks) <= AHEAD


async def test_an_outage_only_delays() -> None:
    batches, clerks = Batches(1), Clerks()
    dispatcher = dispatcher_of(batches, clerks)
    clerks.away = True
    await dispatcher.tick()
    clerks.away = False
    await dispatcher.tick()
    assert list(clerks.tasks) == [SWEEP, "batch-0"]


async def said_while(dispatcher: Dispatcher, batches: Batches, seconds: float, caplog: pytest.LogCaptureFixture) -> list[tuple[int, str]]:
    """What it logs in that time, level and text."""
    caplog.set_level(logging.INFO)
    caplog.clear()
    for _ in range(int(2 * seconds)):
        batches.now_ms += 500
        await dispatcher.tick()
    return [(record.levelno, record.getMessage()) for record in caplog.records]


STANDS = (logging.WARNING, "no clerk has taken a task for 30 s: 3 batches stand still")
GOES_ON = (logging.INFO, "clerks take tasks again")


async def test_a_clerk_that_stands_still_is_told_once_and_so_is_its_return(caplog: pytest.LogCaptureFixture) -> None:
    looks: list[Look | None] = []
    batches, clerks = Batches(3), Clerks()
    dispatcher = dispatcher_of(batches, clerks, looks)
    assert await said_while(dispatcher, batches, 1 + PATIENCE_S - 0.5, caplog) == []
    assert await said_while(dispatcher, batches, 0.5, caplog) == [STANDS]
    assert looks[-1] == Look(waiting=4, waited_s=PATIENCE_S)
    assert await said_while(dispatcher, batches, 600, caplog) == []
    clerks.take()
    assert await said_while(dispatcher, batches, 0.5, caplog) == [GOES_ON]
    assert looks[-1] == Look(waiting=3, waited_s=0)
    assert await said_while(dispatcher, batches, PATIENCE_S, caplog) == [STANDS]
    while clerks.tasks:
        clerks.take()
    assert await said_while(dispatcher, batches, 0.5, caplog) == [GOES_ON]


async def test_busy_clerks_and_idle_ones_are_not_told_of(caplog: pytest.LogCaptureFixture) -> None:
    batches, clerks = Batches(3), Clerks()
    dispatcher = dispatcher_of(batches, clerks)
    for _ in range(20):  # each task in the longest time that one takes
        assert await said_while(dispatcher, batches, 20, caplog) == []
        clerks.take()
    idle, nothing = Batches(0), Clerks()
    dispatcher = dispatcher_of(idle, nothing)
    await said_while(dispatcher, idle, 1, caplog)
    nothing.take()  # the sweep
    assert await said_while(dispatcher, idle, SWEEP_S - 2, caplog) == []


async def test_no_clerk_can_take_tasks_while_their_queue_is_away(caplog: pytest.LogCaptureFixture) -> None:
    looks: list[Look | None] = []
    batches, clerks = Batches(3), Clerks()
    dispatcher = dispatcher_of(batches, clerks, looks)
    await said_while(dispatcher, batches, 20, caplog)
    clerks.away = True
    [(level, lost)] = await said_while(dispatcher, batches, 600, caplog)
    assert (level, lost) == (logging.WARNING, "no batch can be given to a clerk: connection refused")
    assert looks[-1] is None
    clerks.away = False
    assert await said_while(dispatcher, batches, 20, caplog) == [(logging.INFO, "batches can be given to clerks again")]
    assert await said_while(dispatcher, batches, 10, caplog) == [STANDS]
    clerks.away = True
    await said_while(dispatcher, batches, 20, caplog)
    clerks.away = False
    assert GOES_ON not in await said_while(dispatcher, batches, 60, caplog), "nobody has taken anything since"
