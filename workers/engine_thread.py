"""The one thread that touches the engine. The event loop hands it orders and awaits the outcome of a step."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from headrace.request import Lane
from workers.ports import Capacity, Delta, Engine, EngineRequest, EngineStats

MOST_URGENT, LEAST_URGENT = 0, len(Lane) - 1
"""A lane's place in the order of lanes is the priority of its requests."""

STEP_WAIT_S = 0.05
"""How long an engine that computes elsewhere may wait for something to arrive."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one turn of the engine brought, and how it stands after it."""

    deltas: list[Delta]
    capacity: Capacity
    """For requests of the least urgent lane."""
    urgent: Capacity
    """For those of the most urgent one."""
    stats: EngineStats


class EngineThread:
    """Engines are not thread-safe, and numeric libraries keep a thread pool per calling thread: all calls come from one thread."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="engine")

    async def warm_up(self) -> None:
        await asyncio.get_running_loop().run_in_executor(self._executor, self._engine.warm_up)

    async def turn(self, add: Sequence[EngineRequest], abort: Sequence[str]) -> Outcome:
        """Add, abort, then step. Raises what the engine raises."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, self._turn, add, abort)

    def close(self) -> None:
        self._executor.shutdown(wait=True, cancel_futures=True)

    def _turn(self, add: Sequence[EngineRequest], abort: Sequence[str]) -> Outcome:
        # In this order: what was claimed and cancelled in one turn is in both lists.
        for request in add:
            self._engine.add(request)
        for request_id in abort:
            self._engine.abort(request_id)
        deltas = self._engine.step(STEP_WAIT_S)
        return Outcome(deltas, self._engine.capacity(LEAST_URGENT), self._engine.capacity(MOST_URGENT), self._engine.stats())
