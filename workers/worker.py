"""The worker loop: claim while the engine has room → step → append → finish.

One turn of the loop, with the queue's work beside the engine's step so that the queue costs the engine nothing:

    engine thread    |— step k: compute —————————————|— step k+1 …
    event loop       | account for step k−1 | claim … | account for step k …
                       append, finish, renew   while there is room

Nothing is sent to a client here: a token exists once the store has committed it. If this process dies, what step k computed was seen by
nobody and is computed again elsewhere.

Leases are renewed, and the worker's status reported, only here. A step may take longer than a lease; one that never ends is its
supervisor's to notice (`workers/pulse.py`).

A suspect, a job that may have taken other workers down, runs alone: it is claimed only by an idle worker, and as long as it has neither
ended nor made progress nothing else is.
"""

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import Any, TypeVar

from headrace.counted import counted
from headrace.cursor import START
from headrace.errors import QueueUnavailable
from headrace.job import LogEntry
from headrace.ports import Append, Claim, Doorbell, Verdict, WorkQueue
from headrace.request import Lane
from headrace.state import State, failure
from headrace.tally import Tally
from workers.engine_thread import EngineThread, Outcome
from workers.failures import Failures
from workers.holding import Holding, Orders, choice_of, room_left, run_of
from workers.ports import Capacity, Delta, FinishReason
from workers.status import status_of
from workers.timing import Timing

logger = logging.getLogger(__name__)

T = TypeVar("T")

LANES = (Lane.INTERACTIVE, Lane.STANDARD, Lane.BATCH)
CLAIM_AT_MOST = 32
"""Jobs per claim call: bounds the size of its reply."""
LOG_PAGE = 1_000
UNFITTING = Capacity(1, 2**31)
"""A claim for one job of any size."""
SUSPECT_DELAY_S = 1.0
"""How long a job waits that was given back because its log and its count disagree."""


class Worker:
    """Runs one engine against the queue until told to stop. `clock` is monotonic seconds."""

    def __init__(
        self, *, name: str, model: str, queue: WorkQueue, engine: EngineThread, timing: Timing, clock: Callable[[], float]
    ) -> None:
        self._name = name
        self._model = model
        self._queue = queue
        self._engine = engine
        self._timing = timing
        self._clock = clock
        self._failures = Failures(clock)
        self._fenced = Tally(clock)
        self._runs: dict[str, Holding] = {}
        self._uncertain: list[Holding] = []
        self._orders = Orders()
        self._rooms = (Capacity(0, 0), Capacity(0, 0))
        self._renew_at = 0.0
        self._giving_way = False
        self._stop = asyncio.Event()
        self._asking: asyncio.Timeout | None = None  # the call to the store that is waited for

    def stop(self) -> None:
        """Drain: claim nothing more, give back what is held at its committed count, return from `run`."""
        if self._stop.is_set():
            return
        self._stop.set()
        if self._asking is not None:
            self._asking.reschedule(self._asking_until())

    def _asking_until(self) -> float | None:
        """By the event loop's clock."""
        return asyncio.get_running_loop().time() + self._timing.drain_call if self._stop.is_set() else None

    async def stopped(self) -> None:
        """Returns once `stop` was called."""
        await self._stop.wait()

    async def run(self) -> None:
        """Raises whatever the engine raises: the process should end then, and its supervisor starts another."""
        async with AsyncExitStack() as stack:
            bell = await self._persist(lambda: stack.enter_async_context(self._queue.work_doorbell()))
            if bell is None:
                return
            outcome = await self._engine.turn([], [])
            while not self._stop.is_set():
                self._rooms = (outcome.capacity, outcome.urgent)
                if not self._runs and not self._orders.abort:
                    await self._heartbeat(outcome)
                    await self._wait_for_work(bell)
                    if not self._runs:
                        continue
                orders, self._orders = self._orders, Orders()
                turn = asyncio.ensure_future(self._engine.turn(orders.add, orders.abort))
                self._rooms = (room_left(outcome.capacity, orders.add), room_left(outcome.urgent, orders.add))
                await self._account(outcome)
                await self._while_computing(turn, outcome, bell)
                outcome = await turn
            await self._drain(outcome)

    # ---- claim

    async def _wait_for_work(self, bell: Doorbell) -> None:
        """Claim, or sleep until there may be something to claim."""
        self._giving_way = False
        # What does not fit an idle engine fits none: it is taken all the same, for the engine to refuse it and the queue to move on.
        if await self._claim_suspect() or await self._claim() or await self._claim_for(UNFITTING, LANES):
            return
        ringing = asyncio.ensure_future(bell.wait(self._nap))
        stopping = asyncio.ensure_future(self._stop.wait())
        await _first(ringing, stopping)
        await _cancelled(ringing, stopping)

    async def _while_computing(self, turn: "asyncio.Future[Outcome]", outcome: Outcome, bell: Doorbell) -> None:
        """Keep the leases, and claim what the engine will have room for, again whenever the doorbell rings.

        A request that arrives in the middle of a step would otherwise wait for the end of the next one. Both are done once at least: a step
        may well be shorter than the append before it.
        """
        while True:
            await self._heartbeat(outcome)
            claimed = not self._stop.is_set() and await self._claim()
            if turn.done():
                return
            if claimed:
                continue
            ringing = asyncio.ensure_future(bell.wait(self._nap))
            await _first(ringing, turn)
            if ringing.done():
                self._heed(ringing.result())
            await _cancelled(ringing)

    def _heed(self, rung: frozenset[str]) -> None:
        """A cancel of a job we hold: ask about the leases at the next turn instead of in up to a second (a prefill appends nothing)."""
        if any(holding.request.id in rung for holding in self._runs.values()):
            self._renew_at = 0.0

    async def _claim(self) -> bool:
        """Claim what the engine has room for, and of the most urgent lane what it would make room for. True if that brought a job."""
        if self._giving_way or self._alone:
            return False
        room, urgent = (room_left(capacity, self._orders.add) for capacity in self._rooms)
        return await self._claim_for(room, LANES) or (urgent != room and await self._claim_for(urgent, LANES[:1]))

    async def _claim_suspect(self) -> bool:
        call = partial(
            self._queue.claim_suspect, worker=self._name, nonce=secrets.token_hex(8), models=(self._model,), lease_ms=self._timing.lease_ms
        )
        claim = await self._persist(call)
        if claim is None:
            return False
        logger.warning("job %s may have taken other workers down: it runs alone", claim.request.id)
        await self._take(claim, suspect=True)
        return True

    @property
    def _alone(self) -> bool:
        """What runs is under suspicion: nothing may share the engine with it."""
        return any(holding.suspect and not holding.progressed for holding in self._runs.values())

    async def _claim_for(self, room: Capacity, lanes: Sequence[Lane]) -> bool:
        if room.requests <= 0 or room.tokens <= 0:
            return False
        call = partial(
            self._queue.claim,
            worker=self._name,
            nonce=secrets.token_hex(8),
            models=(self._model,),
            lanes=lanes,
            max_jobs=min(room.requests, CLAIM_AT_MOST),
            max_tokens=room.tokens,
            lease_ms=self._timing.lease_ms,
        )
        claims = await self._persist(call) or []
        for claim in claims:
            await self._take(claim)
        return bool(claims)

    async def _take(self, claim: Claim, *, suspect: bool = False) -> None:
        holding = Holding(claim.request, claim.epoch, claim.committed, resumed_at=claim.committed, suspect=suspect)
        self._runs[holding.run_id] = holding
        log = await self._log(holding)
        if log is None:
            return  # the drain gives it back
        if (found := sum(len(entry.token_ids) for entry in log)) != claim.committed:
            # A log that contradicts its count must not be continued on a guess.
            logger.error("job %s: its log holds %d tokens, its count says %d", claim.request.id, found, claim.committed)
            await self._give_back([holding], delay=SUSPECT_DELAY_S)
            return
        self._orders.add += holding.engine_requests(log, LANES.index(claim.request.lane))

    async def _log(self, holding: Holding) -> list[LogEntry] | None:
        """What earlier runs have already given to the client: generation goes on behind it. None if a drain cut the reading short."""
        log: list[LogEntry] = []
        after = START
        while after.n < holding.committed:
            page = await self._persist(partial(self._queue.read_log, holding.request.tenant, holding.request.id, after, LOG_PAGE))
            if page is None:
                return None
            if not page:
                break
            after = page[-1].position
            log += page
        return log

    # ---- account

    async def _account(self, outcome: Outcome) -> None:
        """Commit what a step generated, then end what it ended: one append and one finish call, however many jobs."""
        await self._append([delta for delta in outcome.deltas if delta.token_ids and run_of(delta) in self._runs])
        await self._finish([delta for delta in outcome.deltas if delta.finish is not None and run_of(delta) in self._runs])

    async def _append(self, deltas: Sequence[Delta]) -> None:
        if not deltas:
            return
        of_run: dict[str, list[Delta]] = {}
        for delta in deltas:
            of_run.setdefault(run_of(delta), []).append(delta)
        holdings: list[Holding] = []
        appends: list[Append] = []
        for run_id, own in of_run.items():
            holdings += [self._runs[run_id]] * len(own)
            appends += self._runs[run_id].appends(own)
        verdicts = await self._persist(partial(self._queue.append, appends))
        if verdicts is None:
            # A drain does not wait for the store. Whether these tokens are in the log is unknown, so nothing may be written behind them.
            self._uncertain += [self._runs.pop(run_id) for run_id in of_run]
            return
        for holding, append, verdict in zip(holdings, appends, verdicts, strict=True):
            if verdict in (Verdict.OK, Verdict.CANCEL, Verdict.EXPIRE):
                if holding.suspect and not holding.progressed:
                    logger.info("job %s made progress alone and is no suspect any more", holding.request.id)
                    self._renew_at = 0.0  # ask at once whether the next suspect waits
                holding.committed += len(append.token_ids)
        await self._obey(holdings, verdicts)

    async def _finish(self, deltas: Sequence[Delta]) -> None:
        """A job is done when all its choices have ended, and fails with the first that does."""
        endings: dict[str, tuple[Holding, State, str]] = {}
        for delta in deltas:
            holding = self._runs[run_of(delta)]
            if delta.finish is FinishReason.ERROR:
                endings.setdefault(holding.run_id, (holding, State.FAILED, failure(delta.fault, delta.error)))
                self._orders.abort += holding.sequence_ids
            elif delta.finish is not None:
                holding.ends[choice_of(delta)] = delta.finish
            if holding.done:
                endings[holding.run_id] = (holding, State.DONE, holding.reason)
        await self._end(list(endings.values()))

    async def _end(self, endings: Sequence[tuple[Holding, State, str]]) -> None:
        if not endings:
            return
        verdicts = await self._persist(partial(self._queue.finish, [holding.end(state, reason) for holding, state, reason in endings]))
        if verdicts is None:
            return  # still held: the drain gives it back, and the next owner finds the stop condition in the log
        for (holding, state, reason), verdict in zip(endings, verdicts, strict=True):
            if verdict is not Verdict.OK:
                logger.warning("job %s: %s refused: %s", holding.request.id, state, verdict)
            elif state is State.FAILED:
                self._failures.count(holding.request.id, reason)
            del self._runs[holding.run_id]

    async def _obey(self, holdings: Sequence[Holding], verdicts: Sequence[Verdict]) -> None:
        """Do what the store said about each job; an OK asks for nothing."""
        ended: list[tuple[Holding, State, str]] = []
        broken: list[Holding] = []
        # A job with several choices is named once for each: it is told the same of all.
        orders = {holding.run_id: (holding, verdict) for holding, verdict in zip(holdings, verdicts, strict=True)}
        for holding, verdict in orders.values():
            if verdict is Verdict.OK:
                continue
            self._orders.abort += holding.sequence_ids
            if verdict is Verdict.CANCEL:
                ended.append((holding, State.CANCELLED, "cancelled"))
            elif verdict is Verdict.EXPIRE:
                ended.append((holding, State.EXPIRED, "deadline"))
            elif verdict is Verdict.GAP:
                logger.error("job %s: the log does not stand where this run left it", holding.request.id)
                broken.append(holding)
            else:
                if (count := self._fenced.count()) is not None:
                    logger.warning("jobs fenced count=%d, the last is %s at epoch %d", count, holding.request.id, holding.epoch)
                del self._runs[holding.run_id]
        await self._end(ended)
        await self._give_back(broken, delay=SUSPECT_DELAY_S)

    async def _heartbeat(self, outcome: Outcome) -> None:
        """Renew every lease and report, when due."""
        now = self._clock()
        if now < self._renew_at:
            return
        self._renew_at = now + self._timing.renew
        holdings = list(self._runs.values())
        status = status_of(
            self._name, self._model, outcome.stats, active_requests=len(self._runs), step_s=self._engine.median_step_s or None
        )
        await self._persist(partial(self._queue.report, status, self._timing.lease_ms))
        if holdings:
            verdicts = await self._persist(partial(self._queue.renew, [holding.held for holding in holdings], self._timing.lease_ms))
            if verdicts is not None:
                await self._obey(holdings, verdicts)
        if self._runs and not self._alone:
            await self._give_way_if_summoned()

    async def _give_way_if_summoned(self) -> None:
        """A suspect needs a worker that holds nothing, and it is our turn: whatever runs here goes on elsewhere, or here afterwards."""
        if await self._persist(partial(self._queue.summon, worker=self._name, models=(self._model,))):
            logger.warning("gives back %s: a suspect waits to run alone", counted(len(self._runs), "job"))
            self._giving_way = True
            self._orders.abort += [sequence_id for holding in self._runs.values() for sequence_id in holding.sequence_ids]
            await self._give_back(list(self._runs.values()), delay=0.0)

    @property
    def _nap(self) -> float:
        """How long to wait for a doorbell at most: not beyond the next heartbeat."""
        return min(self._timing.idle, self._timing.renew)

    # ---- give back

    async def _give_back(self, holdings: Sequence[Holding], delay: float) -> bool:
        """False if a drain could not tell the store."""
        if not holdings:
            return True
        verdicts = await self._persist(partial(self._queue.release, [holding.held for holding in holdings], int(delay * 1_000)))
        for holding in holdings:
            self._runs.pop(holding.run_id, None)
        return verdicts is not None

    async def _drain(self, outcome: Outcome) -> None:
        await self._account(outcome)
        holdings = [*self._runs.values(), *self._uncertain]
        if await self._give_back(holdings, delay=0.0):
            logger.info("drained: %s went back to the queue", counted(len(holdings), "job"))
        else:
            logger.warning("drained without the state store: the leases of %s run out", counted(len(holdings), "job"))

    async def _persist(self, call: Callable[[], Awaitable[T]]) -> T | None:
        """Repeat an idempotent call until the store answers; the engine waits meanwhile, so nothing piles up.

        While draining it gives up at the first failure and returns None: leases run out by themselves, and a drain has a deadline. A store
        that is silent is then waited for less long than otherwise: there may be four calls still to make.
        """
        delay, said = self._timing.retry_first, False
        while True:
            try:
                async with asyncio.timeout_at(self._asking_until()) as self._asking:
                    answer = await call()
                if said:
                    logger.info("state store reachable again")
                return answer
            except (QueueUnavailable, TimeoutError) as error:
                if self._stop.is_set():
                    logger.warning("gave up on the state store while draining: %s", error or "it did not answer in time")
                    return None
                # Said once an outage: it may last.
                logger.log(logging.DEBUG if said else logging.WARNING, "state store unreachable: %s", error)
                said = True
            finally:
                self._asking = None
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), delay)
            delay = min(delay * 2, self._timing.retry_longest)


async def _first(*tasks: "asyncio.Future[Any]") -> None:
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)


async def _cancelled(*tasks: "asyncio.Future[Any]") -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
