"""The one thread that touches the engine. The event loop hands it orders and awaits the outcome of a step."""

import asyncio
import logging
import statistics
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from headrace.request import Lane
from workers.pace import Pace
from workers.ports import Capacity, Delta, Engine, EngineRequest, EngineStats

logger = logging.getLogger(__name__)

MOST_URGENT, LEAST_URGENT = 0, len(Lane) - 1
"""A lane's place in the order of lanes is the priority of its requests."""

T = TypeVar("T")

STEPS_REMEMBERED = 64
"""For the median."""

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
        self._begun = self._ended = self._steps = 0
        self._step_s: deque[float] = deque(maxlen=STEPS_REMEMBERED)
        self._computed = 0
        self._pace: Pace | None = Pace()
        """None once the log has been told."""

    async def warm_up(self) -> None:
        await self._run(self._engine.warm_up)

    async def open(self) -> None:
        await self._run(self._engine.open)

    async def turn(self, add: Sequence[EngineRequest], abort: Sequence[str]) -> Outcome:
        """Add, abort, then step. Raises what the engine raises."""
        began = time.monotonic()
        outcome = await self._run(lambda: self._turn(add, abort))
        if outcome.stats.steps != self._steps:
            self._steps = outcome.stats.steps
            self._step_s.append(time.monotonic() - began)
            self._keep_pace(outcome.stats, self._step_s[-1])
        return outcome

    @property
    def calls(self) -> tuple[int, int]:
        """How many calls of the engine have begun, and how many of them have ended. If both stand still and differ, it is stuck in one."""
        return self._begun, self._ended

    @property
    def median_step_s(self) -> float:
        """Of the last steps that computed something; 0 before the first."""
        return statistics.median(self._step_s) if self._step_s else 0.0

    def close(self) -> None:
        """Closes the engine, in its thread like all else."""
        closing = self._executor.submit(self._engine.close)
        self._executor.shutdown(wait=True)
        closing.result()

    def _keep_pace(self, stats: EngineStats, seconds: float) -> None:
        tokens, self._computed = stats.computed_tokens - self._computed, stats.computed_tokens
        if self._pace is None or not tokens:
            return
        times = self._pace.lags(tokens=tokens, cached=stats.kv_tokens_used, seconds=seconds)
        if times is None:
            return
        # Once: as long as it lasts steps of other sizes would each say so too.
        self._pace = None
        logger.warning("steps take %.0f times as long as they did, as if others wanted the same processors", times)

    async def _run(self, call: Callable[[], T]) -> T:
        self._begun += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._executor, call)
        finally:
            self._ended += 1

    def _turn(self, add: Sequence[EngineRequest], abort: Sequence[str]) -> Outcome:
        # In this order: what was claimed and cancelled in one turn is in both lists.
        for request in add:
            self._engine.add(request)
        for request_id in abort:
            self._engine.abort(request_id)
        deltas = self._engine.step(STEP_WAIT_S)
        return Outcome(deltas, self._engine.capacity(LEAST_URGENT), self._engine.capacity(MOST_URGENT), self._engine.stats())
