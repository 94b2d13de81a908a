"""A job with several choices: one lease and one log, a sequence for each, and what ends the whole."""

import random
from dataclasses import replace
from functools import partial

import pytest

from headrace.job import LogEntry
from headrace.request import Request
from headrace.state import State
from headrace.testing.builders import ManualClock, make_request, make_submission
from headrace.testing.eventually import eventually
from headrace.testing.queue.memory import MemoryQueue
from tests.at_work import GatedEngine, InlineEngine, ended, has_committed, log_of, tokens_of, working
from workers.backends.scripted import ScriptedEngine, answer_to, logprobs_of, text_of, token_at
from workers.ports import Delta, EngineRequest, FinishReason

PROMPT = (1, 2, 3)


def of_choice(log: list[LogEntry], choice: int) -> list[LogEntry]:
    return [entry for entry in log if entry.choice == choice and entry.end is None]


def check_whole(log: list[LogEntry], request: Request, lengths: list[int]) -> None:
    """Every choice has its own tokens once and in order, and positions only increase."""
    for choice, length in enumerate(lengths):
        own = of_choice(log, choice)
        assert tokens_of(own) == answer_to(request.prompt_ids, length, choice)
    assert [entry.position for entry in log] == sorted({entry.position for entry in log})
    assert [entry.position.n for entry in log] == list(range(1, len(log) + 1))


async def is_idle(engine: ScriptedEngine) -> bool:
    return not engine._runs


async def is_spent(engine: GatedEngine, queue: MemoryQueue, request: Request) -> bool:
    return engine.allowed == 0 or (await queue.get("default", request.id)).ended_ms is not None


async def test_each_choice_is_written_in_turn_with_its_own_end() -> None:
    stop = token_at(PROMPT, 2, 1)  # the second choice says it third, the others not at all
    queue, request = MemoryQueue(), make_request(prompt_ids=PROMPT, max_tokens=5, n=3, stop_token_ids=(stop,))
    await queue.accept(make_submission(request))
    async with working(queue, ScriptedEngine()):
        job = await ended(queue, request)
    assert (job.state, job.reason, job.committed) == (State.DONE, "length,stop,length", 13)
    log = await log_of(queue, request)
    check_whole(log[:-1], request, [5, 3, 5])
    assert [entry.choice for entry in log[:3]] == [0, 1, 2]
    assert "".join(entry.text for entry in of_choice(log, 1)) == text_of(answer_to(PROMPT, 2, 1))


async def test_logprobs_go_into_the_log_beside_their_tokens() -> None:
    queue, request = MemoryQueue(), make_request(prompt_ids=PROMPT, max_tokens=3, n=2, logprobs=2)
    await queue.accept(make_submission(request))
    async with working(queue, ScriptedEngine()):
        await ended(queue, request)
    for entry in await log_of(queue, request):
        assert entry.logprobs == logprobs_of(entry.token_ids, 2)


class KnowingEngine(GatedEngine):
    """Of choice c it had 10 · c + 7 tokens in its cache, and 100 more with every engine made since."""

    def __init__(self, life: int) -> None:
        super().__init__()
        self._found: dict[str, int] = {}
        self._life = life

    def add(self, request: EngineRequest) -> None:
        self._found[request.request_id] = 7 + 10 * request.choice + 100 * self._life
        super().add(request)

    def step(self, timeout: float) -> list[Delta]:
        return [replace(delta, cached_tokens=self._found.pop(delta.request_id, None)) for delta in super().step(timeout)]


async def test_the_prompt_is_as_cached_as_the_first_choice_found_it() -> None:
    """Whatever the others find, and whoever goes on."""
    queue, request = MemoryQueue(clock=ManualClock()), make_request(prompt_ids=PROMPT, max_tokens=4, n=3)
    await queue.accept(make_submission(request))
    for life, steps in enumerate((1, 9)):
        engine = KnowingEngine(life)
        engine.allowed = steps
        async with working(queue, engine, name=f"w{life}"):
            await eventually(partial(has_committed, queue, request, 3 if life == 0 else 12))
    await ended(queue, request)
    [*_, end] = await log_of(queue, request)
    assert (end.end, end.cached_tokens) == (State.DONE, 7)


@pytest.mark.parametrize("seed", range(8))
async def test_every_choice_goes_on_behind_its_own_tokens_whoever_dies(seed: int) -> None:
    """Workers stop after any number of steps, some choices ended and others not."""
    rng = random.Random(seed)
    n, max_tokens = rng.randint(2, 5), 9
    stops = tuple(token_at(PROMPT, rng.randrange(max_tokens), choice) for choice in range(n) if rng.random() < 0.5)
    request = make_request(prompt_ids=PROMPT, max_tokens=max_tokens, n=n, stop_token_ids=stops)
    answers = [answer_to(PROMPT, max_tokens, choice) for choice in range(n)]
    lengths = [next((i + 1 for i, token in enumerate(answer) if token in stops), max_tokens) for answer in answers]
    queue = MemoryQueue(clock=ManualClock())
    await queue.accept(make_submission(request))
    for life in range(50):
        if (await queue.get("default", request.id)).state is State.DONE:
            break
        committed = (await queue.get("default", request.id)).committed
        engine = GatedEngine()
        engine.allowed = rng.randint(1, 3)
        async with working(queue, engine, name=f"w{life}", thread=InlineEngine):
            await eventually(partial(is_spent, engine, queue, request))
        assert sum(len(one.committed_ids) for one in engine.added) == committed
        assert [one.choice for one in engine.added] == list(range(n))
    job = await queue.get("default", request.id)
    log = await log_of(queue, request)
    check_whole(log[:-1], request, lengths)
    reasons = ["stop" if answer[length - 1] in stops else "length" for answer, length in zip(answers, lengths, strict=True)]
    assert (job.state, job.reason, job.committed) == (State.DONE, ",".join(reasons), sum(lengths))


async def test_a_cancel_ends_all_choices() -> None:
    queue, request = MemoryQueue(), make_request(max_tokens=10_000, n=3)
    await queue.accept(make_submission(request))
    engine = ScriptedEngine()
    async with working(queue, engine):
        await eventually(lambda: has_committed(queue, request, 9))
        await queue.cancel("default", request.id)
        job = await ended(queue, request)
        await eventually(partial(is_idle, engine))
    assert (job.state, job.reason) == (State.CANCELLED, "cancelled")


def failed(request_id: str) -> Delta:
    return Delta(request_id=request_id, finish=FinishReason.ERROR, error="one is enough")


class OneFails(ScriptedEngine):
    """The second choice fails at its third step."""

    def step(self, timeout: float) -> list[Delta]:
        runs = dict(self._runs)
        deltas = super().step(timeout)
        bad = {request_id for request_id, run in runs.items() if run.request.choice == 1 and run.position == 3}
        for request_id in bad:
            self.abort(request_id)
        return [failed(delta.request_id) if delta.request_id in bad else delta for delta in deltas]


class Refusing(ScriptedEngine):
    def step(self, timeout: float) -> list[Delta]:
        refused = [failed(request_id) for request_id in self._runs]
        self._runs.clear()
        return refused


async def test_the_first_choice_that_fails_fails_the_job_and_stops_the_others() -> None:
    queue, request, other = MemoryQueue(), make_request(max_tokens=10_000, n=3), make_request(max_tokens=4)
    await queue.accept(make_submission(request))
    engine = OneFails()
    async with working(queue, engine):
        job = await ended(queue, request)
        assert (job.state, job.reason) == (State.FAILED, "one is enough")
        await queue.accept(make_submission(other))
        assert (await ended(queue, other)).state is State.DONE
        await eventually(partial(is_idle, engine))


async def test_a_request_that_no_choice_can_run_fails_once() -> None:
    queue, request = MemoryQueue(), make_request(n=4)
    await queue.accept(make_submission(request))
    async with working(queue, Refusing()):
        job = await ended(queue, request)
    assert (job.state, job.reason, job.committed) == (State.FAILED, "one is enough", 0)
