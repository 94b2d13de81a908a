"""An engine that lives elsewhere, in another process or behind HTTP, behind the Engine port.

worker's engine thread      add, abort, step: decides who has a place, makes text of what arrived
a thread with an event loop  one task per request that has a place, pulling portions of tokens from the source
"""

from collections.abc import AsyncIterator
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from queue import Empty, SimpleQueue
from typing import Protocol

import psutil

from headrace.state import Fault
from workers.backends.loop_thread import LoopThread
from workers.backends.runs import Portion, Run, Runs
from workers.ports import Capacity, Delta, EngineRequest, EngineStats


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """What a source is to generate: everything behind `tokens`."""

    name: str
    """Differs from that of any other task, also of the same request."""
    request: EngineRequest
    committed: tuple[int, ...]
    """Generated already, here or in an earlier run. There is at least one token left to generate."""

    @property
    def tokens(self) -> list[int]:
        return [*self.request.prompt_ids, *self.committed]

    @property
    def left(self) -> int:
        return self.request.sampling.max_tokens - len(self.committed)


class RunFailed(Exception):
    """The source cannot go on with this one request. `fault` as in Delta."""

    def __init__(self, fault: Fault | None, error: str) -> None:
        super().__init__(error)
        self.fault = fault


class Source(Protocol):
    """What generates. All methods are called on one event loop."""

    @property
    def device(self) -> str: ...

    async def start(self) -> None:
        """Load, connect, warm up. Raises ModelUnavailable, SettingsError."""
        ...

    async def open(self) -> int:
        """Take the memory that requests need, if `start` did not. For how many tokens there is room then."""
        ...

    def generate(self, task: Task) -> AsyncIterator[Portion]:
        """Portions of tokens, `task.left` in all, or up to an end-of-text or stop token, with it. To cancel the iteration is to stop it.

        Raises RunFailed. Any other exception means that the source itself is broken.
        """
        ...

    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True, eq=False)
class _Place:
    """A run's turn at the source. What a turn that is over still brings is not listened to: the next one generates it anew."""

    run: Run
    task: Task


@dataclass(frozen=True, slots=True)
class _Arrival:
    place: _Place
    portion: Portion | None = None
    ended: "Future[None] | None" = None


class FarEngine:
    """See `workers.ports.Engine`. `step` waits for what arrives.

    A source serves its requests as equals, so this is where the urgent come first: `max_running` of them have a place at the source, and
    one that is displaced is stopped there and later generated on behind its tokens.
    """

    def __init__(self, source: Source, runs: Runs) -> None:
        """`runs` gets its room when the engine is opened."""
        self._source = source
        self._runs = runs
        self._loop = LoopThread("engine-source")
        self._places: dict[Run, tuple[_Place, Future[None]]] = {}
        self._inbox: SimpleQueue[_Arrival] = SimpleQueue()
        self._process = psutil.Process()
        self._machine_memory = psutil.virtual_memory().total
        self._turns = self._steps = self._preemptions = 0

    def warm_up(self) -> None:
        self._loop.call(self._source.start())

    def open(self) -> None:
        self._runs.room = self._loop.call(self._source.open())

    def add(self, request: EngineRequest) -> None:
        self._runs.admit(request)

    def abort(self, request_id: str) -> None:
        if (run := self._runs.abort(request_id)) is not None:
            self._leave(run)

    def step(self, timeout: float) -> list[Delta]:
        self._place()
        arrivals = self._arrived(0 if self._runs.news else timeout)
        self._steps += bool(arrivals)
        for arrival in arrivals:
            self._account(arrival)
        return self._runs.take()

    def capacity(self, priority: int) -> Capacity:
        return self._runs.capacity(priority)

    def stats(self) -> EngineStats:
        return EngineStats(
            device=self._source.device,
            memory_used=self._process.memory_info().rss,
            memory_total=self._machine_memory,
            kv_tokens_used=sum(run.tokens for run in self._places),
            kv_tokens_total=self._runs.room,
            waiting=len(self._runs) - len(self._places),
            running=len(self._places),
            steps=self._steps,
            preemptions=self._preemptions,
        )

    def close(self) -> None:
        self._loop.call(self._source.close())
        self._loop.close()

    def _place(self) -> None:
        chosen = self._runs.chosen(self._places.keys())
        for run in self._places.keys() - chosen:
            self._preemptions += 1
            self._leave(run)
        for run in chosen:
            if run not in self._places:
                self._turns += 1
                self._begin(_Place(run, Task(name=f"{run.id}#{self._turns}", request=run.request, committed=tuple(run.generated))))

    def _begin(self, place: _Place) -> None:
        work = self._loop.start(self._pull(place))
        self._places[place.run] = place, work
        # Added when it is known to the engine: it may end before this line.
        work.add_done_callback(partial(self._tell_end, place))

    async def _pull(self, place: _Place) -> None:
        async for portion in self._source.generate(place.task):
            self._inbox.put(_Arrival(place, portion))

    def _tell_end(self, place: _Place, work: "Future[None]") -> None:
        self._inbox.put(_Arrival(place, ended=work))

    def _arrived(self, timeout: float) -> list[_Arrival]:
        """All there is, or the first that comes."""
        arrivals: list[_Arrival] = []
        try:
            arrivals.append(self._inbox.get(timeout=timeout) if timeout > 0 else self._inbox.get_nowait())
            while True:
                arrivals.append(self._inbox.get_nowait())
        except Empty:
            return arrivals

    def _account(self, arrival: _Arrival) -> None:
        run = arrival.place.run
        if run not in self._places or self._places[run][0] is not arrival.place:
            return
        if arrival.portion is not None:
            self._runs.advance(run, arrival.portion)
            if run not in self._runs:
                self._leave(run)
        if arrival.ended is not None:
            self._account_end(run, arrival.ended.exception())

    def _account_end(self, run: Run, error: BaseException | None) -> None:
        """Of a turn that ended before its run did."""
        del self._places[run]
        if error is None:
            error = RunFailed(Fault.ENGINE_ERROR, f"the engine stopped after {len(run.generated)} tokens, without an end-of-text token")
        if not isinstance(error, RunFailed):
            raise error
        self._runs.fail(run, error.fault, str(error))

    def _leave(self, run: Run) -> None:
        _, work = self._places.pop(run, (None, None))
        if work is not None and run.left:
            # One that has all its tokens ends by itself, and may give its connection back.
            work.cancel()
