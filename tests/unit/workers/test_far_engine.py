"""An engine that lives elsewhere, with a source that does as a test says."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from headrace.capabilities import CAPABILITIES
from headrace.logprobs import Logprobs
from headrace.model_folder import ModelFolder
from headrace.state import Fault
from headrace.testing.tiny_model import make_model
from headrace.tokenizer import Tokenizer
from tests.engine_bench import Answer, Reference, Subject, ask, collect, greedy, opened
from workers.backends.far import FarEngine, RunFailed, Task
from workers.backends.runs import Portion, Runs
from workers.ports import EngineRequest

PROMPT = (1, 2, 3)
ROOM = 500
PLACES = 2

Generate = Callable[[Task], AsyncIterator[Portion]]


async def count(task: Task) -> AsyncIterator[Portion]:
    """0, 1, 2 … in portions of three."""
    for start in range(len(task.committed), task.request.sampling.max_tokens, 3):
        yield Portion(range(start, min(start + 3, task.request.sampling.max_tokens)))
        await asyncio.sleep(0)


class Source:
    device = "elsewhere"

    def __init__(self) -> None:
        self.how: dict[str, Generate] = {}
        self.tasks: list[Task] = []
        self.cancelled: list[str] = []
        self.closed = False

    async def start(self) -> None:
        """Nothing to load."""

    async def open(self) -> int:
        return ROOM

    async def generate(self, task: Task) -> AsyncIterator[Portion]:
        self.tasks.append(task)
        try:
            async for portion in self.how.get(task.request.request_id, count)(task):
                yield portion
        except asyncio.CancelledError:
            self.cancelled.append(task.request.request_id)
            raise

    async def close(self) -> None:
        self.closed = True


@pytest.fixture
def source() -> Source:
    return Source()


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    folder = tmp_path / "model"
    make_model(folder, [f"w{i}" for i in range(63)] + ["?"], context=256)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"eos_token_id": 63}))
    read = ModelFolder.read(folder)
    return Runs(read, Tokenizer(read.tokenizer_file), CAPABILITIES["vllm"], max_running=PLACES)


@pytest.fixture
def subject(source: Source, runs: Runs) -> Iterator[Subject]:
    with opened(FarEngine(source, runs)) as engine:
        yield Subject(engine, CAPABILITIES["vllm"], 63, Reference(PROMPT))
    assert source.closed


async def forever(task: Task) -> AsyncIterator[Portion]:
    yield Portion([len(task.committed)])
    await asyncio.Event().wait()


async def failing(task: Task) -> AsyncIterator[Portion]:
    yield Portion([0])
    raise RunFailed(Fault.RESOURCE_EXHAUSTED, "no room for it")


async def ending(task: Task) -> AsyncIterator[Portion]:
    yield Portion([0, 1])


async def breaking(task: Task) -> AsyncIterator[Portion]:
    yield Portion([0])
    raise OSError("the engine has died")


async def babbling(task: Task) -> AsyncIterator[Portion]:
    while True:
        yield Portion([1, 2, 63, 5])
        await asyncio.sleep(0)


def request(request_id: str, **fields: object) -> EngineRequest:
    return ask(request_id, PROMPT, greedy(10), **fields)


def test_a_request_that_fails_at_the_source_fails_alone(subject: Subject, source: Source) -> None:
    source.how |= {"bad": failing, "short": ending}
    answers = subject.run(request("bad"), request("short"), request("ok"))
    assert answers["bad"].end is not None
    assert (answers["bad"].ids, answers["bad"].end.fault, answers["bad"].end.error) == ([0], Fault.RESOURCE_EXHAUSTED, "no room for it")
    assert answers["short"].end is not None
    assert answers["short"].end.error == "the engine stopped after 2 tokens, without an end-of-text token"
    assert answers["ok"].ids == list(range(10))


def test_a_source_that_is_broken_ends_the_process(subject: Subject, source: Source) -> None:
    source.how["a"] = breaking
    subject.engine.add(request("a"))
    with pytest.raises(OSError, match="the engine has died"):
        subject.step_until(lambda _: False)


def test_what_follows_a_stop_condition_is_dropped_and_the_source_told(subject: Subject, source: Source) -> None:
    source.how["a"] = babbling
    answer = subject.answer(request("a"))
    assert answer.ids == [1, 2, 63]
    assert answer.text == "w1 w2"
    assert subject.engine.step(0.01) == []


def test_no_more_requests_have_a_place_than_there_are_and_the_first_come_first(subject: Subject, source: Source) -> None:
    answers = subject.run(*(request(str(i)) for i in range(5)))
    assert all(answer.ids == list(range(10)) for answer in answers.values())
    assert [task.request.request_id for task in source.tasks] == ["0", "1", "2", "3", "4"]
    assert source.cancelled == []


def test_a_displaced_request_goes_on_behind_its_tokens_and_hears_nothing_of_its_first_turn(subject: Subject, source: Source) -> None:
    source.how |= {"0": forever, "1": forever}
    answers = {name: Answer() for name in ("0", "1", "urgent")}
    for name in ("0", "1"):
        subject.engine.add(request(name, priority=2))
    collect(answers, subject.step_until(lambda deltas: len(deltas) == PLACES))
    del source.how["1"]
    subject.engine.add(request("urgent", priority=0))
    collect(answers, subject.step_until(lambda deltas: any(delta.request_id == "1" and delta.finish for delta in deltas)))
    assert answers["urgent"].ids == list(range(10))
    assert answers["1"].ids == list(range(10)), "its second turn began behind its first token"
    assert [task.committed for task in source.tasks if task.request.request_id == "1"] == [(), (0,)]
    assert len({task.name for task in source.tasks}) == len(source.tasks)
    assert subject.engine.stats().preemptions == 1
    subject.engine.abort("0")


def test_a_deltas_log_probabilities_are_those_of_its_tokens(runs: Runs) -> None:
    runs.room = ROOM
    run = runs.admit(request("a"))
    assert run is not None
    told = [Logprobs(-float(i)) for i in range(3)]
    runs.advance(run, Portion([1, 2], told[:2], [Logprobs(-9.0)]))
    runs.advance(run, Portion([63, 7], told[2:] * 2))
    [delta] = runs.take()
    assert delta.token_ids == (1, 2, 63)
    assert delta.logprobs == tuple(told)
    assert delta.prompt_logprobs == (Logprobs(-9.0),)


async def knowing(task: Task) -> AsyncIterator[Portion]:
    yield Portion([len(task.committed), 1], cached_tokens=len(task.tokens) - 1)
    yield Portion(range(9), cached_tokens=99)


def test_cached_tokens_are_told_once_and_not_of_an_answer_that_goes_on(subject: Subject, source: Source) -> None:
    source.how |= {"new": knowing, "resumed": knowing}
    answers = subject.run(request("new"), request("resumed", committed_ids=(0, 1)))
    assert (answers["new"].cached, answers["resumed"].cached) == ([len(PROMPT) - 1], [])
