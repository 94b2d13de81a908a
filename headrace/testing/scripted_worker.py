"""A worker without an engine: it takes jobs through the WorkQueue port and writes real log entries, word for word as scripted.

All choices of a job say the same, in turn. A token's id is its place in the log; its alternatives are the ids behind it, each
e times less likely.

A killed one leaves its jobs leased, as a dead process does; another one goes on behind the last committed token.
"""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from headrace.logprobs import Logprobs
from headrace.ports import Append, Claim, Finish, Held, Verdict, WorkQueue
from headrace.request import Lane, Request
from headrace.state import State

_LEASE_MS = 600_000
_LOOK_S = 1.0
_BATCH = 10_000
_STOPS = {Verdict.CANCEL: (State.CANCELLED, "cancelled"), Verdict.EXPIRE: (State.EXPIRED, "deadline")}

PANGRAM = ("The", " quick", " brown", " fox", " jumps", " over", " the", " lazy", " dog", ".")


@dataclass(frozen=True, slots=True)
class Script:
    """An answer: one token per piece. An empty piece is a token without text, as an end-of-text token is."""

    pieces: tuple[str, ...]
    end: State = State.DONE
    reason: str = "stop"


def pangram(request: Request) -> Script:
    """The same ten words for everybody, and the end-of-text token; cut at max_tokens."""
    pieces = (*PANGRAM, "")
    limit = request.sampling.max_tokens
    return Script(pieces) if limit >= len(pieces) else Script(pieces[:limit], reason="length")


def _logprobs(token_ids: Sequence[int], request: Request) -> tuple[Logprobs, ...]:
    top = request.sampling.logprobs
    if top is None:
        return ()
    return tuple(Logprobs(-0.5, tuple((token + i, -0.5 - i) for i in range(top))) for token in token_ids)


def _prompt_logprobs(request: Request) -> tuple[Logprobs, ...]:
    return _logprobs(request.prompt_ids[1:], request) if request.sampling.prompt_logprobs else ()


class Pace:
    """How fast a worker writes: freely, or one token (of any job) per step that a test allows."""

    def __init__(self, *, free: bool = True) -> None:
        self._free = free
        self._steps = 0
        self._changed = asyncio.Event()

    def allow(self, steps: int) -> None:
        self._steps += steps
        self._changed.set()

    def hold(self) -> None:
        self._free = False

    def release(self) -> None:
        self._free = True
        self._changed.set()

    def poke(self) -> None:
        """Let everybody who is held back look at his reason to stop."""
        self._changed.set()

    async def step(self, told_to_stop: Callable[[], bool]) -> None:
        while not self._free and self._steps == 0 and not told_to_stop():
            self._changed.clear()
            await self._changed.wait()
        if not self._free and self._steps:
            self._steps -= 1


@dataclass(slots=True)
class _Job:
    claim: Claim
    stop: tuple[State, str] | None = None


class ScriptedWorker:
    """Runs every job it can get at once. `pace` holds back tokens, and the end marker as the last step."""

    def __init__(
        self,
        queue: WorkQueue,
        *,
        model: str,
        name: str = "scripted",
        script: Callable[[Request], Script] = pangram,
        pace: Pace | None = None,
    ) -> None:
        self.name = name
        self._queue = queue
        self._model = model
        self._script = script
        self._pace = pace or Pace()
        self._jobs: dict[str, _Job] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def run(self) -> AsyncIterator["ScriptedWorker"]:
        loop = asyncio.ensure_future(self._loop())
        try:
            yield self
        finally:
            tasks = [loop, *self._tasks]
            for task in tasks:
                task.cancel()
            for outcome in await asyncio.gather(*tasks, return_exceptions=True):
                if isinstance(outcome, Exception):
                    raise outcome

    async def _loop(self) -> None:
        async with self._queue.work_doorbell() as bell:
            for nonce in itertools.count():
                await self._claim(str(nonce))
                for job_id in await bell.wait(_LOOK_S):
                    await self._look_for_cancel(job_id)

    async def _claim(self, nonce: str) -> None:
        claims = await self._queue.claim(
            worker=self.name, nonce=nonce, models=[self._model], lanes=list(Lane), max_jobs=_BATCH, max_tokens=2**40, lease_ms=_LEASE_MS
        )
        for claim in claims:
            task = asyncio.create_task(self._write(claim))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _look_for_cancel(self, job_id: str) -> None:
        """A job that is held back by the pace notices its cancellation too."""
        if (job := self._jobs.get(job_id)) is not None:
            [verdict] = await self._queue.renew([Held(job_id, job.claim.epoch)], _LEASE_MS)
            job.stop = _STOPS.get(verdict)
            self._pace.poke()

    async def _write(self, claim: Claim) -> None:
        job_id, epoch, committed = claim.request.id, claim.epoch, claim.committed
        script = self._script(claim.request)
        job = self._jobs[job_id] = _Job(claim)
        n = claim.request.sampling.n
        for written in range(committed, n * len(script.pieces)):
            await self._pace.step(lambda: job.stop is not None)
            if job.stop is not None:
                break
            place, choice = divmod(written, n)
            append = Append(
                job_id=job_id,
                epoch=epoch,
                start=committed,
                token_ids=(committed,),
                text=script.pieces[place],
                choice=choice,
                logprobs=_logprobs([committed], claim.request),
                prompt_logprobs=_prompt_logprobs(claim.request) if place == 0 else (),
            )
            [verdict] = await self._queue.append([append])
            if verdict is Verdict.FENCED:
                return
            committed += 1
            job.stop = _STOPS.get(verdict)
        if job.stop is None:
            await self._pace.step(lambda: job.stop is not None)
        reasons = ",".join([script.reason] * n) if script.end is State.DONE else script.reason
        state, reason = job.stop or (script.end, reasons)
        await self._queue.finish([Finish(job_id=job_id, epoch=epoch, committed=committed, state=state, reason=reason)])
        del self._jobs[job_id]
