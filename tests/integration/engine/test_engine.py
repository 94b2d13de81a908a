"""What the engine promises beyond tokens: ends, errors, room. On a tiny random model."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from headrace.counted import counted
from headrace.errors import ModelUnavailable, SettingsError
from headrace.request import Sampling
from headrace.settings import Settings
from workers.backends.build import build_engine
from workers.engine.config import EngineConfig
from workers.engine.cpu.compiled import THREADS
from workers.engine.engine import PagedEngine
from workers.engine.runner import OutOfMemory
from workers.ports import Delta, EngineRequest, FinishReason

PROMPT = (10, 20, 30, 40, 50)


def open_engine(folder: Path, **fields: Any) -> PagedEngine:
    engine = PagedEngine(EngineConfig(model=folder, device="cpu", kv_memory_mb=1, **fields))
    engine.open()
    return engine


@pytest.fixture
def engine(make_model: Callable[..., Path]) -> PagedEngine:
    return open_engine(make_model(), block_size=8, max_running=4)


def greedy(max_tokens: int = 12, **fields: Any) -> Sampling:
    return Sampling(max_tokens=max_tokens, temperature=0.0, seed=0, **fields)


def ask(request_id: str = "a", prompt: tuple[int, ...] = PROMPT, sampling: Sampling | None = None, **fields: Any) -> EngineRequest:
    return EngineRequest(request_id=request_id, prompt_ids=prompt, sampling=sampling or greedy(), **fields)


def run(engine: PagedEngine) -> dict[str, list[Delta]]:
    """Step until nothing is left; the deltas of each request."""
    deltas: dict[str, list[Delta]] = {}
    while True:
        new = engine.step(0)
        for delta in new:
            deltas.setdefault(delta.request_id, []).append(delta)
        stats = engine.stats()
        if not new and stats.running + stats.waiting == 0:
            return deltas


def ids_of(deltas: list[Delta]) -> list[int]:
    return [token for delta in deltas for token in delta.token_ids]


def test_tokens_equal_transformers_generate(engine: PagedEngine, make_model: Callable[..., Path]) -> None:
    model: Any = AutoModelForCausalLM.from_pretrained(make_model(), dtype=torch.float32)
    prompts = [PROMPT, (1,), tuple(range(100, 140)), (256, 3), (7, 7, 7), (200,) * 17]
    for i, prompt in enumerate(prompts):
        engine.add(ask(str(i), prompt, greedy(20)))
    deltas = run(engine)
    for i, prompt in enumerate(prompts):
        out = model.generate(torch.tensor([prompt]), max_new_tokens=20, do_sample=False, attention_mask=torch.ones(1, len(prompt)))
        assert ids_of(deltas[str(i)]) == out[0, len(prompt) :].tolist()


@pytest.mark.parametrize("penalty", [1.3, 0.8])
def test_repetition_penalty_and_min_tokens_as_transformers_have_them(make_model: Callable[..., Path], penalty: float) -> None:
    folder = make_model(eos_token_id=189)  # a token that the model soon chooses
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    engine = open_engine(folder, block_size=8, max_running=4)
    prompts = [PROMPT, (1, 2, 3), (7, 7, 7), tuple(range(30))]
    for i, prompt in enumerate(prompts):
        engine.add(ask(str(i), prompt, greedy(30, repetition_penalty=penalty, min_tokens=9)))
    deltas = run(engine)
    for i, prompt in enumerate(prompts):
        options = {"max_new_tokens": 30, "min_new_tokens": 9, "repetition_penalty": penalty, "do_sample": False}
        out = model.generate(torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt)), **options)
        assert ids_of(deltas[str(i)]) == out[0, len(prompt) :].tolist()


def test_min_tokens_keeps_end_and_stop_tokens_away(engine: PagedEngine) -> None:
    engine.add(ask("free", sampling=greedy(ignore_eos=True)))
    first = ids_of(run(engine)["free"])[0]
    engine.add(ask("stopped", sampling=greedy(stop_token_ids=(first,))))
    engine.add(ask("kept", sampling=greedy(stop_token_ids=(first,), min_tokens=4)))
    deltas = run(engine)
    assert [(d.token_ids, d.text, d.finish) for d in deltas["stopped"]] == [((first,), "", FinishReason.STOP)]
    assert first not in ids_of(deltas["kept"])[:4]


def test_logprobs_are_the_models_own(engine: PagedEngine, make_model: Callable[..., Path]) -> None:
    model: Any = AutoModelForCausalLM.from_pretrained(make_model(), dtype=torch.float32)
    sampling = Sampling(max_tokens=8, seed=5, temperature=1.7, logprobs=3, presence_penalty=1.0, ignore_eos=True)
    engine.add(ask(sampling=sampling))
    engine.add(ask("quiet", sampling=greedy(8)))
    deltas = run(engine)
    assert all(not delta.logprobs for delta in deltas["quiet"])
    ids = ids_of(deltas["a"])
    expected = torch.log_softmax(model(torch.tensor([[*PROMPT, *ids]])).logits[0, len(PROMPT) - 1 : -1], -1).detach()
    for token, row, delta in zip(ids, expected, deltas["a"], strict=True):
        (told,) = delta.logprobs
        assert told.chosen == pytest.approx(float(row[token]), abs=1e-3)
        assert [place for place, _ in told.top] == row.topk(3).indices.tolist()


@pytest.mark.parametrize("budget", [512, 7, 1])
def test_a_prompt_is_scored_however_it_is_cut(make_model: Callable[..., Path], budget: int) -> None:
    folder = make_model()
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    engine = open_engine(folder, block_size=8, max_running=4, token_budget=budget)
    prompts = {"a": tuple(range(40, 70)), "b": (9,), "c": (1, 2)}
    for request_id, prompt in prompts.items():
        engine.add(ask(request_id, prompt, greedy(4, logprobs=2, prompt_logprobs=True, ignore_eos=True)))
    engine.add(ask("quiet", prompts["a"], greedy(4, logprobs=2, ignore_eos=True)))
    deltas = run(engine)
    assert all(not delta.prompt_logprobs for delta in (*deltas["quiet"], *(delta for own in deltas.values() for delta in own[1:])))
    assert ids_of(deltas["a"]) == ids_of(deltas["quiet"])
    for request_id, prompt in prompts.items():
        expected = torch.log_softmax(model(torch.tensor([prompt])).logits[0, :-1], -1).detach()
        told = deltas[request_id][0].prompt_logprobs
        assert len(told) == len(prompt) - 1
        for token, row, one in zip(prompt[1:], expected, told, strict=True):
            assert one.chosen == pytest.approx(float(row[token]), abs=1e-3)
            assert [place for place, _ in one.top] == row.topk(2).indices.tolist()


def test_a_prompt_is_scored_once_whoever_preempts_it(make_model: Callable[..., Path]) -> None:
    engine = open_engine(make_model(), block_size=8, max_running=1, token_budget=8)
    sampling = greedy(4, logprobs=0, prompt_logprobs=True, ignore_eos=True)
    prompt = tuple(range(40, 70))
    engine.add(ask("alone", prompt, sampling))
    alone = run(engine)["alone"]
    engine.add(ask("a", prompt, sampling, priority=1))
    engine.step(0)
    engine.add(ask("urgent", sampling=greedy(2)))
    deltas = run(engine)
    assert engine.stats().preemptions == 1
    assert len(alone[0].prompt_logprobs) == 29
    for one, again in zip(alone[0].prompt_logprobs, deltas["a"][0].prompt_logprobs, strict=True):
        assert one.chosen == pytest.approx(again.chosen, abs=1e-4)
    engine.add(ask("resumed", prompt, sampling, committed_ids=tuple(ids_of(alone)[:2])))
    assert all(not delta.prompt_logprobs for delta in run(engine)["resumed"])


def test_choices_of_one_seed_differ_and_resume_as_themselves(engine: PagedEngine) -> None:
    sampling = Sampling(max_tokens=12, temperature=1.5, seed=3, ignore_eos=True)
    for choice in range(3):
        engine.add(ask(f"{choice}", sampling=sampling, choice=choice))
    whole = {request_id: ids_of(deltas) for request_id, deltas in run(engine).items()}
    assert len({tuple(ids) for ids in whole.values()}) == 3
    engine.add(ask("rest", sampling=sampling, choice=2, committed_ids=tuple(whole["2"][:5])))
    assert ids_of(run(engine)["rest"]) == whole["2"][5:]


def test_a_penalised_run_resumes_as_itself(engine: PagedEngine) -> None:
    sampling = greedy(presence_penalty=1.5, frequency_penalty=0.5, repetition_penalty=1.2, ignore_eos=True)
    engine.add(ask("whole", sampling=sampling))
    whole = ids_of(run(engine)["whole"])
    engine.add(ask("rest", sampling=sampling, committed_ids=tuple(whole[:5])))
    assert ids_of(run(engine)["rest"]) == whole[5:]


def test_it_says_what_it_computes_with(engine: PagedEngine) -> None:
    stats, threads = engine.stats(), counted(THREADS, "thread")
    assert (stats.dtype, stats.kv_dtype, stats.computed_tokens) == ("fp32", "fp32", 0)
    assert engine.makeup == f"weights fp32, cache fp32, {stats.kv_tokens_total} tokens in blocks of 8, compiled kernels, {threads} on cpu"
    engine.add(ask(prompt=(5, 6, 7), sampling=greedy(2, ignore_eos=True)))
    run(engine)
    assert engine.stats().computed_tokens == 4, "the last token is not computed any more"


def test_max_tokens_ends_with_length(engine: PagedEngine) -> None:
    engine.add(ask(sampling=greedy(3, ignore_eos=True)))
    *first, last = run(engine)["a"]
    assert [delta.finish for delta in first] == [None, None]
    assert last.finish is FinishReason.LENGTH


def test_end_of_text_is_a_token_without_text(make_model: Callable[..., Path]) -> None:
    folder = make_model()
    engine = open_engine(folder)
    engine.add(ask(sampling=greedy(12, ignore_eos=True)))
    ids = ids_of(run(engine)["a"])
    # The token the model says third is made its end-of-text.
    for file in ("config.json", "generation_config.json"):
        (folder / file).write_text((folder / file).read_text().replace('"eos_token_id": 256', f'"eos_token_id": {ids[2]}'))
    engine = open_engine(folder)
    engine.add(ask())
    _first, _second, third = run(engine)["a"]
    assert third.token_ids == (ids[2],)
    assert third.finish is FinishReason.STOP
    engine.add(ask(sampling=greedy(12, ignore_eos=True)))
    assert ids_of(run(engine)["a"]) == ids


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (ask(prompt=()), "the prompt is empty"),
        (ask(prompt=(1,) * 250, sampling=greedy(7)), "prompt (250 tokens) and max_tokens (7) exceed the model's context of 256"),
        (ask(prompt=(1, 300)), "token id 300 is outside the vocabulary of 257"),
        (ask(committed_ids=(-1,)), "token id -1 is outside the vocabulary of 257"),
        (ask(sampling=greedy(logit_bias=((257, 1.0),))), "token id 257 is outside the vocabulary of 257"),
    ],
)
def test_a_request_that_can_never_run_is_an_error_of_its_own(engine: PagedEngine, request_: EngineRequest, message: str) -> None:
    engine.add(request_)
    engine.add(ask("other"))
    deltas = run(engine)
    assert deltas["a"] == [Delta(request_id="a", finish=FinishReason.ERROR, error=message)]
    assert deltas["other"][-1].finish is not None


def test_a_request_larger_than_the_whole_cache_is_refused(make_model: Callable[..., Path]) -> None:
    folder = make_model(max_position_embeddings=4096)
    engine = open_engine(folder)  # 512 bytes a token: 2,048 tokens
    engine.add(ask(prompt=(1,) * 2000, sampling=greedy(49)))
    (delta,) = engine.step(0)
    assert delta.error == "prompt (2000 tokens) and max_tokens (49) exceed the KV cache of 2048 tokens"


def test_committed_tokens_that_met_an_end_are_not_continued(engine: PagedEngine) -> None:
    engine.add(ask("length", sampling=greedy(3), committed_ids=(1, 2, 3)))
    engine.add(ask("eos", committed_ids=(1, 256)))
    assert engine.step(0) == [
        Delta(request_id="length", finish=FinishReason.LENGTH),
        Delta(request_id="eos", finish=FinishReason.STOP),
    ]


@pytest.mark.parametrize("cut", range(1, 12))
def test_a_resumed_run_is_the_rest_of_an_unbroken_one(engine: PagedEngine, cut: int) -> None:
    sampling = Sampling(max_tokens=12, temperature=1.5, seed=3, ignore_eos=True)
    engine.add(ask("whole", sampling=sampling))
    whole = run(engine)["whole"]
    engine.add(ask("rest", sampling=sampling, committed_ids=tuple(ids_of(whole)[:cut])))
    rest = run(engine)["rest"]
    assert [(d.token_ids, d.text, d.finish) for d in rest] == [(d.token_ids, d.text, d.finish) for d in whole[cut:]]


def test_an_aborted_request_gives_everything_back_and_says_nothing(engine: PagedEngine) -> None:
    engine.add(ask("a"))
    engine.add(ask("b", prompt=()))
    engine.step(0)
    engine.add(ask("c", prompt=()))
    for request_id in ("a", "c", "unknown"):
        engine.abort(request_id)
    assert engine.step(0) == []
    assert engine.stats().kv_tokens_used == 0


def test_capacity_counts_slots_and_tokens(engine: PagedEngine) -> None:
    before = engine.capacity(2)
    assert (before.requests, before.tokens) == (4, engine.stats().kv_tokens_total)
    engine.add(ask())
    assert engine.capacity(2).requests == 3
    assert engine.capacity(2).tokens == before.tokens - 8
    engine.step(0)
    assert engine.capacity(2).tokens == before.tokens - 16  # a block it holds, and one for it to grow into
    run(engine)
    assert engine.capacity(2) == before


def test_any_other_fault_of_a_step_is_the_engines(engine: PagedEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> Any:
        raise RuntimeError("shapes differ")

    monkeypatch.setattr(engine._runner, "_model", fail)
    engine.add(ask())
    with pytest.raises(RuntimeError, match="shapes differ"):
        engine.step(0)


def test_warm_up_leaves_no_trace_and_takes_no_cache(make_model: Callable[..., Path]) -> None:
    engine = PagedEngine(EngineConfig(model=make_model(), device="cpu", kv_memory_mb=64))
    engine.warm_up()
    cache = engine._runner._cache
    assert sum(pages.nbytes for pages in (*cache.keys, *cache.values)) < 2**20
    engine.open()
    stats = engine.stats()
    assert (stats.steps, stats.running, stats.waiting, stats.kv_tokens_used) == (0, 0, 0, 0)
    assert engine.capacity(2).tokens == stats.kv_tokens_total == 64 * 2**20 // 512
    assert engine.step(0) == []


def test_the_same_id_twice_is_a_programming_error(engine: PagedEngine) -> None:
    engine.add(ask())
    with pytest.raises(ValueError, match="request a is running already"):
        engine.add(ask())


def test_a_cache_without_a_block_is_refused(make_model: Callable[..., Path]) -> None:
    with pytest.raises(SettingsError, match="HEADRACE_KV_MEMORY_MB=1 holds no block of HEADRACE_BLOCK_SIZE=4096 tokens"):
        PagedEngine(EngineConfig(model=make_model(), device="cpu", kv_memory_mb=1, block_size=4096))


@pytest.mark.parametrize("memory_mb", [99_999_999, 99_999_999_999_999])
def test_a_cache_beyond_the_machines_memory_is_refused(make_model: Callable[..., Path], memory_mb: int) -> None:
    with pytest.raises(SettingsError, match=rf"HEADRACE_KV_MEMORY_MB={memory_mb} is more than the \d+ MB that this process may use"):
        build_engine(Settings(engine="paged", model=str(make_model()), device="cpu", kv_memory_mb=memory_mb))


def test_a_cache_that_the_system_does_not_grant_is_refused(make_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit on addresses (ulimit -v), or a machine that promises no more than it has."""
    engine = PagedEngine(EngineConfig(model=make_model(), device="cpu", kv_memory_mb=1))

    def refuse(*_: Any) -> Any:
        raise MemoryError("Unable to allocate 1.00 MiB")

    monkeypatch.setattr("workers.engine.kv_cache.np.zeros", refuse)
    with pytest.raises(SettingsError, match="HEADRACE_KV_MEMORY_MB=1 cannot be had here: Unable to allocate"):
        engine.open()


@pytest.mark.parametrize("device", ["nonsense", "meta"])
def test_a_device_that_is_not_there_is_named(make_model: Callable[..., Path], device: str) -> None:
    with pytest.raises(ModelUnavailable, match=f"HEADRACE_DEVICE='{device}' is no device that torch can use here"):
        PagedEngine(EngineConfig(model=make_model(), device=device))


def test_a_model_that_computes_no_numbers_is_not_ready(make_model: Callable[..., Path]) -> None:
    folder = make_model()
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"][:] = float("nan")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    engine = PagedEngine(EngineConfig(model=folder, device="cpu", kv_memory_mb=1))
    with pytest.raises(ModelUnavailable, match=f"{folder} cannot be served: in the warm-up the model's output .* is not a number"):
        engine.warm_up()


def test_a_warm_up_without_memory_may_be_tried_again(make_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    engine = PagedEngine(EngineConfig(model=make_model(), device="cpu", kv_memory_mb=1))

    def fail(*_: Any) -> Any:
        raise MemoryError("no room")

    monkeypatch.setattr(engine._runner, "_model", fail)
    with pytest.raises(OutOfMemory, match="in the warm-up a single token of it ran out of memory: no room"):
        engine.warm_up()
