"""What the contract suite of engines works with: a tiny checkpoint that all of them run, and a driver."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from headrace.capabilities import CAPABILITIES, Capabilities
from headrace.logprobs import Logprobs
from headrace.request import Sampling
from headrace.settings import Settings
from headrace.testing.tree import running_tree
from workers.backends.build import build_engine
from workers.backends.scripted import ScriptedEngine, token_at
from workers.ports import Delta, Engine, EngineRequest, FinishReason

CONTEXT = 256
MAX_RUNNING = 4
PROMPT = (10, 20, 30, 40, 50)
MODEL_NAME = "tiny"
PATIENCE_S = 60.0
"""A lack of progress after which an engine is stuck: far beyond what any of these requests takes."""


@dataclass(slots=True)
class Answer:
    """What came of one request."""

    ids: list[int] = field(default_factory=list)
    text: str = ""
    logprobs: list[Logprobs] = field(default_factory=list)
    prompt_logprobs: list[Logprobs] = field(default_factory=list)
    cached: list[int] = field(default_factory=list, compare=False)
    """What was told of it; depends on what ran before."""
    end: Delta | None = field(default=None, compare=False)
    """How it ended; what came with the end depends on how the tokens were portioned."""

    @property
    def finish(self) -> FinishReason | None:
        return None if self.end is None else self.end.finish


@dataclass(frozen=True, slots=True)
class Reference:
    """What our own engine says to the checkpoint."""

    ending: tuple[int, ...]
    """A prompt whose greedy answer comes to the end-of-text token after some tokens, within 60."""
    answers: Mapping[str, Answer] = field(default_factory=dict)
    """To each of FIELDS, and without any of them as "plain"."""


@dataclass(frozen=True, slots=True)
class Subject:
    """An engine that holds nothing."""

    engine: Engine
    can: Capabilities
    eos: int
    reference: Reference
    own_script: bool = False
    """It does not run the checkpoint."""

    @property
    def ending(self) -> tuple[int, ...]:
        return self.reference.ending

    def steps(self) -> Iterator[list[Delta]]:
        """What each step brings, until nothing is left to do."""
        seen_at = monotonic()
        while True:
            deltas = self.engine.step(0.02)
            assert len({delta.request_id for delta in deltas}) == len(deltas), "two deltas of one request in one step"
            stats = self.engine.stats()
            if deltas:
                seen_at = monotonic()
            elif stats.running + stats.waiting == 0:
                return
            assert monotonic() - seen_at < PATIENCE_S, f"nothing came for {PATIENCE_S} s, with {stats}"
            yield deltas

    def run(self, *requests: EngineRequest) -> dict[str, Answer]:
        """Their whole answers."""
        answers = {request.request_id: Answer() for request in requests}
        for request in requests:
            self.engine.add(request)
        for deltas in self.steps():
            collect(answers, deltas)
        return answers

    def answer(self, request: EngineRequest) -> Answer:
        return self.run(request)[request.request_id]

    def step_until(self, done: Callable[[list[Delta]], bool]) -> list[Delta]:
        """All deltas up to the first step whose own, or those before it, satisfy `done`."""
        deltas: list[Delta] = []
        for new in self.steps():
            deltas += new
            if done(deltas):
                return deltas
        raise AssertionError(f"the engine ran out of work, after {deltas}")


def collect(answers: dict[str, Answer], deltas: list[Delta]) -> None:
    for delta in deltas:
        answer = answers[delta.request_id]
        assert answer.end is None, f"{delta} follows the end of its request"
        answer.ids += delta.token_ids
        answer.text += delta.text
        answer.logprobs += delta.logprobs
        answer.prompt_logprobs += delta.prompt_logprobs
        if delta.cached_tokens is not None:
            assert len(answer.ids) == len(delta.token_ids), "told behind the first token"
            answer.cached.append(delta.cached_tokens)
        answer.end = delta if delta.finish else None


def greedy(max_tokens: int, **fields: object) -> Sampling:
    return Sampling.model_validate({"max_tokens": max_tokens, "temperature": 0.0, "seed": 0, **fields})


def ask(request_id: str = "a", prompt: tuple[int, ...] = PROMPT, sampling: Sampling | None = None, **fields: Any) -> EngineRequest:
    sampling = sampling or greedy(12, ignore_eos=True)
    return EngineRequest(request_id=request_id, prompt_ids=prompt, sampling=sampling, **fields)


FIELDS: Mapping[str, object] = {
    "min_p": 0.9,
    "logprobs": 3,
    "logit_bias": ((5, 50.0),),
    "presence_penalty": 2.0,
    "frequency_penalty": 1.0,
    "repetition_penalty": 1.8,
    "stop_token_ids": (0,),
    "min_tokens": 60,
    "prompt_logprobs": True,
}
"""Fields of Sampling that not every engine has, with values that make a difference."""


def with_field(name: str, reference: Reference) -> EngineRequest:
    """A greedy request that asks for this; "plain" for nothing of the kind."""
    extra = {} if name == "plain" else {name: FIELDS[name]}
    if name == "prompt_logprobs":
        extra["logprobs"] = 2
    if name == "stop_token_ids":
        extra[name] = (reference.answers["plain"].ids[15],)
    if name == "min_tokens":
        return ask(name, reference.ending, greedy(60, **extra))
    return ask(name, PROMPT, greedy(30, ignore_eos=True, **extra))


def make_checkpoint(folder: Path) -> None:
    """A Llama of random weights whose tokens are 63 printable characters and an end-of-text token. Float32, head size 32."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=CONTEXT,
        initializer_range=0.3,  # wide enough that the best token is clearly the best
        bos_token_id=None,
        eos_token_id=63,
        pad_token_id=63,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer = Tokenizer(models.BPE(vocab={chr(ord("0") + i): i for i in range(63)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|end|>"])
    tokenizer.save(str(folder / "tokenizer.json"))


def settings_for(engine: str, checkpoint: Path, **fields: object) -> Settings:
    return Settings.model_validate(
        {
            "engine": engine,
            "model": str(checkpoint),
            "model_name": MODEL_NAME,
            "device": "cpu",
            "dtype": "fp32",  # as all the others compute
            "max_running": MAX_RUNNING,
            "kv_memory_mb": 1,
            "block_size": 8,
            **fields,
        }
    )


@contextmanager
def opened(engine: Engine) -> Iterator[Engine]:
    engine.warm_up()
    engine.open()
    try:
        yield engine
    finally:
        engine.close()


@contextmanager
def scripted() -> Iterator[Subject]:
    eos = token_at(PROMPT, 3)
    with opened(ScriptedEngine(max_running=MAX_RUNNING, max_tokens=1_000, eos_ids=frozenset({eos}))) as engine:
        yield Subject(engine, CAPABILITIES["scripted"], eos, Reference(PROMPT), own_script=True)


@contextmanager
def modelled(name: str, checkpoint: Path, reference: Reference, **settings: object) -> Iterator[Subject]:
    with opened(build_engine(settings_for(name, checkpoint, **settings))) as engine:
        yield Subject(engine, CAPABILITIES[name], 63, reference)


@contextmanager
def upstream(checkpoint: Path, reference: Reference, data: Path) -> Iterator[Subject]:
    """Our own server as another's upstream, all of its processes."""
    environ = {
        "HEADRACE_MODEL": str(checkpoint),
        "HEADRACE_MODEL_NAME": MODEL_NAME,
        "HEADRACE_KV_MEMORY_MB": "1",
        "HEADRACE_DTYPE": "fp32",
    }
    with running_tree(data, environ) as tree, modelled("openai", checkpoint, reference, upstream_url=f"{tree.url}/v1") as subject:
        yield subject


def make_reference(checkpoint: Path) -> Reference:
    with modelled("paged", checkpoint, Reference(())) as subject:
        asked = [ask(f"{i} {second}", (i, second), greedy(60)) for i in range(0, 60, 5) for second in (1, 7)]
        answers = subject.run(*asked)
        reference = Reference(_find_ending(asked, answers), {"plain": subject.answer(with_field("plain", Reference(())))})
        return replace(reference, answers={**reference.answers, **subject.run(*(with_field(name, reference) for name in FIELDS))})


def _find_ending(asked: Sequence[EngineRequest], answers: Mapping[str, Answer]) -> tuple[int, ...]:
    for request in asked:
        answer = answers[request.request_id]
        if answer.finish is FinishReason.STOP and len(answer.ids) > 3:
            return request.prompt_ids
    pytest.fail("no prompt of the tiny checkpoint comes to an end")
