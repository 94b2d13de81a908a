"""One bad request in a batch: it fails with a clear code, and the others do not notice. On a tiny random model.

Faults are put in from outside: logits that are no numbers, allocators that refuse, a tokenizer that raises.
"""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from headrace.cursor import START
from headrace.job import Job
from headrace.request import Request, Sampling
from headrace.state import Fault, State, fault_of
from headrace.testing.builders import make_request, make_submission
from headrace.testing.eventually import eventually
from headrace.testing.queue.memory import MemoryQueue
from workers.engine.config import EngineConfig
from workers.engine.engine import PagedEngine
from workers.engine_thread import EngineThread
from workers.ports import Delta, EngineRequest, FinishReason
from workers.timing import Timing
from workers.worker import Worker

BAD_TOKEN, OTHER_BAD_TOKEN = 2, 3
"""No good request holds or generates them."""
PROMPTS = {"a": (10, 20, 30), "b": (1,), "c": tuple(range(100, 140)), "d": (7,) * 17}
BAD = "bad"
BAD_PROMPT = (5, BAD_TOKEN)

MakeEngine = Callable[[], PagedEngine]


@pytest.fixture
def make_engine(make_model: Callable[..., Path]) -> MakeEngine:
    folder = make_model()

    def make() -> PagedEngine:
        engine = PagedEngine(EngineConfig(model=folder, device="cpu", kv_memory_mb=1, block_size=8, max_running=8, token_budget=64))
        engine.open()
        return engine

    return make


def ask(name: str, prompt: tuple[int, ...], **fields: Any) -> EngineRequest:
    sampling = Sampling(max_tokens=12, temperature=0.0, seed=0, ignore_eos=True)
    return EngineRequest(request_id=name, prompt_ids=prompt, sampling=sampling, **fields)


def run(engine: PagedEngine) -> dict[str, list[Delta]]:
    """All of PROMPTS and whatever was added, to the end; the deltas of each request."""
    for name, prompt in PROMPTS.items():
        engine.add(ask(name, prompt))
    deltas: dict[str, list[Delta]] = {}
    for _ in range(2_000):
        for delta in engine.step(0):
            deltas.setdefault(delta.request_id, []).append(delta)
        stats = engine.stats()
        if stats.running + stats.waiting == 0 and not engine._early:
            assert stats.kv_tokens_used == 0
            return deltas
    raise AssertionError("the engine does not come to an end")


def ids_of(deltas: list[Delta]) -> list[int]:
    return [token for delta in deltas for token in delta.token_ids]


def check_others(engine: PagedEngine, deltas: dict[str, list[Delta]]) -> None:
    """They got what they would have got alone."""
    alone = run(engine)
    assert not {BAD_TOKEN, OTHER_BAD_TOKEN} & {token for each in alone.values() for token in ids_of(each)}
    for name in PROMPTS:
        assert deltas[name][-1].finish is FinishReason.LENGTH
        assert ids_of(deltas[name]) == ids_of(alone[name])


def spoil_logits(engine: PagedEngine, monkeypatch: pytest.MonkeyPatch, value: float) -> None:
    """Every row that ends with BAD_TOKEN."""
    model = engine._runner._model

    def spoilt(batch: Any, attention: Any) -> Any:
        logits = model(batch, attention)
        logits[batch.token_ids[batch.sampled] == BAD_TOKEN] = value
        return logits

    monkeypatch.setattr(engine._runner, "_model", spoilt)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_logits_that_are_no_numbers(make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch, value: float) -> None:
    engine = make_engine()
    spoil_logits(engine, monkeypatch, value)
    engine.add(ask(BAD, BAD_PROMPT))
    engine.add(EngineRequest(request_id="hot", prompt_ids=BAD_PROMPT, sampling=Sampling(max_tokens=4, temperature=1.0, top_p=0.9, seed=1)))
    deltas = run(engine)
    for name in (BAD, "hot"):
        error = "the model's output for this request is not a number"
        assert deltas[name] == [Delta(request_id=name, finish=FinishReason.ERROR, fault=Fault.ENGINE_ERROR, error=error)]
    check_others(make_engine(), deltas)


def test_nonsense_in_the_cache_does_not_outlive_its_request(make_model: Callable[..., Path], make_engine: MakeEngine) -> None:
    """Keys and values that are no numbers lie in blocks which the next request gets."""
    from safetensors.torch import load_file, save_file

    folder = make_model()
    tensors = load_file(folder / "model.safetensors")
    tensors["model.embed_tokens.weight"][BAD_TOKEN] = float("nan")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    engine = make_engine()
    engine.add(ask(BAD, BAD_PROMPT))
    deltas = run(engine)
    assert deltas[BAD][0].fault is Fault.ENGINE_ERROR
    check_others(engine, deltas)


def test_nonsense_in_shared_blocks_does_not_outlive_its_request(make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault that passes spoils full blocks of a prompt. Who asks for the same again gets an answer."""
    prompt = (BAD_TOKEN, *range(40, 80))
    engine = make_engine()
    embed = F.embedding

    def spoilt(ids: Any, weight: Any) -> Any:
        return embed(ids, weight).masked_fill((ids == BAD_TOKEN)[:, None], float("nan"))

    with monkeypatch.context() as fault:
        fault.setattr(F, "embedding", spoilt)
        engine.add(ask(BAD, prompt))
        assert run(engine)[BAD][0].fault is Fault.ENGINE_ERROR
    engine.add(ask("again", prompt))
    sound = make_engine()
    sound.add(ask("again", prompt))
    assert ids_of(run(engine)["again"]) == ids_of(run(sound)["again"]) != []


def lack_memory(engine: PagedEngine, monkeypatch: pytest.MonkeyPatch, when: Callable[[list[int]], bool]) -> list[int]:
    """Steps with these token ids, if `when` says so, do not fit. Returns the sizes of those, as they come."""
    model, refused = engine._runner._model, list[int]()

    def compute_if_it_fits(batch: Any, attention: Any) -> Any:
        ids = batch.token_ids.tolist()
        if when(ids):
            refused.append(len(ids))
            raise torch.OutOfMemoryError("no room\nand a paragraph about why")
        return model(batch, attention)

    monkeypatch.setattr(engine._runner, "_model", compute_if_it_fits)
    return refused


def test_a_step_that_does_not_fit_is_made_smaller_and_nobody_fails(make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make_engine()
    refused = lack_memory(engine, monkeypatch, lambda ids: len(ids) > 10)
    check_others(make_engine(), run(engine))
    assert refused[:3] == [61, 30, 15]
    assert engine.stats().shrunk_steps == len(refused)


def test_a_request_that_does_not_even_fit_alone_fails(make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make_engine()
    engine.add(ask(BAD, (OTHER_BAD_TOKEN, 1)))
    lack_memory(engine, monkeypatch, lambda ids: OTHER_BAD_TOKEN in ids)
    deltas = run(engine)
    error = "a single token of it ran out of memory: no room"
    assert deltas[BAD] == [Delta(request_id=BAD, finish=FinishReason.ERROR, fault=Fault.RESOURCE_EXHAUSTED, error=error)]
    check_others(make_engine(), deltas)


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory"), MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes")],
)
def test_what_allocators_raise_now_and_then_costs_nobody_a_token(
    make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    engine = make_engine()
    model, calls = engine._runner._model, iter(range(10**6))

    def fail_now_and_then(*arguments: Any) -> Any:
        if next(calls) % 5 == 0:
            raise error
        return model(*arguments)

    monkeypatch.setattr(engine._runner, "_model", fail_now_and_then)
    check_others(make_engine(), run(engine))


def break_tokenizer(engine: PagedEngine, monkeypatch: pytest.MonkeyPatch, bad: int) -> None:
    """It cannot decode one token."""

    class Broken:
        def __init__(self, tokenizer: Any) -> None:
            self._tokenizer = tokenizer

        def decode(self, ids: list[int], **options: Any) -> Any:
            if bad in ids:
                raise Exception("no such piece")
            return self._tokenizer.decode(ids, **options)

    monkeypatch.setattr(engine._tokenizer, "_tokenizer", Broken(engine._tokenizer._tokenizer))


def test_a_token_that_cannot_be_decoded(make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = make_engine()
    whole.add(ask(BAD, BAD_PROMPT))
    all_ids = {name: ids_of(deltas) for name, deltas in run(whole).items()}
    mine = next(i for i, token in enumerate(all_ids[BAD]) if not any(token in all_ids[name] for name in PROMPTS))
    engine = make_engine()
    break_tokenizer(engine, monkeypatch, all_ids[BAD][mine])
    engine.add(ask(BAD, BAD_PROMPT))
    deltas = run(engine)
    assert ids_of(deltas[BAD]) == all_ids[BAD][:mine]
    last = deltas[BAD][-1]
    assert (last.finish, last.fault) == (FinishReason.ERROR, Fault.ENGINE_ERROR)
    assert "no such piece" in last.error
    check_others(make_engine(), deltas)


def test_a_log_that_cannot_be_decoded_again(make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make_engine()
    break_tokenizer(engine, monkeypatch, BAD_TOKEN)
    engine.add(ask(BAD, (5,), committed_ids=(9, BAD_TOKEN)))
    deltas = run(engine)
    assert [(delta.token_ids, delta.fault) for delta in deltas[BAD]] == [((), Fault.ENGINE_ERROR)]
    check_others(make_engine(), deltas)


async def test_through_the_worker_each_ends_as_it_should(make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make_engine()
    spoil_logits(engine, monkeypatch, float("nan"))
    hungry = make_request(prompt_ids=(OTHER_BAD_TOKEN, 1), max_tokens=12)
    nonsense = make_request(prompt_ids=BAD_PROMPT, max_tokens=12)
    good = {name: make_request(prompt_ids=prompt, max_tokens=12) for name, prompt in PROMPTS.items()}
    lack_memory(engine, monkeypatch, lambda ids: OTHER_BAD_TOKEN in ids)
    queue, thread = MemoryQueue(), EngineThread(engine)
    for request in (hungry, nonsense, *good.values()):
        await queue.accept(make_submission(request))
    worker = Worker(
        name="w", model="test-model", queue=queue, engine=thread, timing=Timing(idle=0.01), clock=asyncio.get_running_loop().time
    )
    running = asyncio.ensure_future(worker.run())

    async def end_of(request: Request) -> Job | None:
        job = await queue.get("default", request.id)
        return job if job.ended_ms is not None else None

    async def ended(request: Request) -> Job:
        job = await eventually(lambda: end_of(request), pause=0.005)
        assert job is not None
        return job

    for request, fault in ((hungry, Fault.RESOURCE_EXHAUSTED), (nonsense, Fault.ENGINE_ERROR)):
        job = await ended(request)
        assert (job.state, fault_of(job.reason)[0], job.crashes) == (State.FAILED, fault, 0)
    for request in good.values():
        assert (await ended(request)).state is State.DONE
        assert len(await queue.read_log("default", request.id, START, 100)) == 13
    worker.stop()
    await running
    thread.close()
