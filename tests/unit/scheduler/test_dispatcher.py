"""The dispatcher against clerks that are idle, busy or away."""

from collections import deque
from typing import cast

from headrace.batch_ports import BatchWork
from headrace.errors import QueueUnavailable
from scheduler.dispatcher import AGAIN_MS, AHEAD, SWEEP_S, Dispatcher

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

    def give_back(self, batch_id: str) -> None:
        self._due[batch_id] = self.now_ms


class Clerks:
    def __init__(self) -> None:
        self.tasks: deque[str] = deque()
        self.away = False

    def waiting(self) -> int:
        if self.away:
            raise QueueUnavailable("connection refused")
        return len(self.tasks)

    def work_on(self, batch_id: str) -> None:
        self.tasks.append(batch_id)

    def sweep(self) -> None:
        self.tasks.append(SWEEP)


def dispatcher_of(batches: Batches, clerks: Clerks) -> Dispatcher:
    return Dispatcher(cast(BatchWork, batches), clerks, interval=0.5, clock=lambda: batches.now_ms / 1_000)


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
        task = clerks.tasks.popleft()
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
