"""A worker that is told to stop while its store fails it."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest

from headrace.errors import QueueUnavailable
from headrace.testing.builders import make_request, make_submission
from headrace.testing.eventually import eventually
from headrace.testing.queue.memory import MemoryQueue
from tests.at_work import GatedEngine, ended, has_committed, log_of, tokens_of, working
from workers.backends.scripted import ScriptedEngine, answer_to
from workers.worker import Worker


class CutQueue(MemoryQueue):
    """One call to append does not reach the store, in the moment in which the worker is told to stop."""

    draining: Worker | None = None

    async def append(self, appends: Any) -> Any:
        if self.draining is not None:
            self.draining.stop()
            self.draining = None
            raise QueueUnavailable("cut before it was sent")
        return await super().append(appends)


async def test_a_drain_that_loses_the_store_for_one_call_loses_no_token() -> None:
    """The tokens of that call are nowhere; those of the next step must not take their place, nor may the job be finished without them."""
    for max_tokens in (4, 10):  # the lost step is the last one, or is not
        queue, request = CutQueue(), make_request(max_tokens=max_tokens)
        await queue.accept(make_submission(request))
        engine = GatedEngine()
        engine.allowed = 3
        async with working(queue, engine) as worker:
            await eventually(partial(has_committed, queue, request, 3))
            queue.draining = worker
            engine.allowed = 2
            await eventually(partial(_cut, queue))
        async with working(queue, ScriptedEngine(), name="w2"):
            await ended(queue, request)
        assert tokens_of(await log_of(queue, request)) == answer_to(request.prompt_ids, max_tokens)


class SilentQueue(MemoryQueue):
    """From some moment on nothing is answered, and nothing fails either."""

    silent = False

    async def _answer(self, call: Callable[..., Awaitable[Any]], *arguments: Any) -> Any:
        if self.silent:
            await asyncio.Event().wait()
        return await call(*arguments)

    async def append(self, appends: Any) -> Any:
        return await self._answer(super().append, appends)

    async def renew(self, held: Any, lease_ms: int) -> Any:
        return await self._answer(super().renew, held, lease_ms)

    async def release(self, held: Any, delay_ms: int) -> Any:
        return await self._answer(super().release, held, delay_ms)


@pytest.mark.parametrize("asked", ["before", "while"])
async def test_a_drain_does_not_wait_for_a_silent_store(asked: str) -> None:
    """Told to stop before a call to the store, or while it waits for one."""
    queue, request, engine = SilentQueue(), make_request(max_tokens=10), GatedEngine()
    await queue.accept(make_submission(request))
    engine.allowed = 3
    async with working(queue, engine, drain_call=0.01) as worker:
        await eventually(partial(has_committed, queue, request, 3))
        queue.silent = True
        if asked == "before":
            worker.stop()
        engine.allowed = 2
        if asked == "while":
            await eventually(partial(_is_asking, worker))
        worker.stop()
    assert (await queue.get("default", request.id)).committed == 3


async def _is_asking(worker: Worker) -> bool:
    return worker._asking is not None


async def _cut(queue: CutQueue) -> bool:
    return queue.draining is None
