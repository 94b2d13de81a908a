"""A request's tokens do not depend on its company: alone, in any batch, in chunks, preempted, or continued elsewhere."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from headrace.request import Sampling
from headrace.testing.scale import FULL_SIZE
from workers.engine.config import EngineConfig
from workers.engine.engine import PagedEngine
from workers.ports import EngineRequest


@dataclass(frozen=True)
class Way:
    """To be invariant."""

    engine: Mapping[str, Any]
    examples: int
    model: Mapping[str, Any] = field(default_factory=dict)


MANY, SOME = (250, 60) if FULL_SIZE else (60, 20)
WINDOWS: Mapping[str, Any] = {"sliding_window": 11}
"""Shorter than most prompts, and no multiple of a block."""
WAYS: Mapping[str, Way] = {
    "fp32": Way({"dtype": "fp32"}, MANY),
    "int8": Way({"dtype": "int8"}, MANY),
    "fp32, half cache": Way({"dtype": "fp32", "kv_dtype": "fp16"}, SOME),
    "int8, fp32 cache": Way({"dtype": "int8", "kv_dtype": "fp32"}, SOME),
    "qwen3": Way({"dtype": "fp32"}, SOME, {"kind": "qwen3", "head_dim": 24, "noise": 0.3}),
    "mistral": Way({"dtype": "fp32"}, SOME, {"kind": "mistral", **WINDOWS}),
    "gemma3": Way(
        {"dtype": "int8"},
        SOME,
        {"kind": "gemma3_text", "head_dim": 16, "num_hidden_layers": 7, "noise": 0.3, "query_pre_attn_scalar": 16, **WINDOWS},
    ),
}
LONGEST_PROMPT, LONGEST_ANSWER = 40, 8


@dataclass(frozen=True)
class Ask:
    prompt: tuple[int, ...]
    sampling: Sampling
    resumed: int
    """Tokens that an earlier run has left."""
    delay: int
    """Steps before it arrives."""
    priority: int


ASKS = st.builds(
    Ask,
    # Few beginnings, so that some of them are found in the cache.
    prompt=st.tuples(st.sampled_from([3, 17, 64]), st.integers(1, LONGEST_PROMPT), st.integers(0, 255)).map(
        lambda parts: tuple((parts[0] * i + i * i) % 256 for i in range(parts[1])) + parts[2:]
    ),
    sampling=st.builds(
        Sampling,
        max_tokens=st.integers(1, LONGEST_ANSWER),
        temperature=st.sampled_from([0.0, 0.0, 0.8]),
        top_p=st.sampled_from([1.0, 0.9]),
        repetition_penalty=st.sampled_from([1.0, 1.0, 1.3]),
        seed=st.integers(0, 3),
        ignore_eos=st.just(True),
    ),
    resumed=st.integers(0, LONGEST_ANSWER - 1),
    delay=st.integers(0, 6),
    priority=st.integers(0, 2),
)


GREEDY = Sampling(max_tokens=LONGEST_ANSWER, temperature=0.0, seed=0, ignore_eos=True)
# Two blocks of prompt each and three when they end; then one that is urgent and needs most of the small pool.
CROWD = [
    *(Ask(tuple(range(i, i + 15)), GREEDY, 0, 0, 1 + i % 2) for i in range(5)),
    Ask(tuple(range(LONGEST_PROMPT)), GREEDY, 0, 4, 0),
]


@dataclass
class Lone:
    """What each request gets when it has an engine for itself, in one piece."""

    engine: PagedEngine
    known: dict[tuple[tuple[int, ...], Sampling], list[int]] = field(default_factory=dict)

    def answer(self, ask: Ask) -> list[int]:
        key = (ask.prompt, ask.sampling)
        if key not in self.known:
            self.engine.add(EngineRequest(request_id="", prompt_ids=ask.prompt, sampling=ask.sampling))
            self.known[key] = run(self.engine, [])[""]
        return self.known[key]


def run(engine: PagedEngine, arrivals: list[tuple[int, EngineRequest]]) -> dict[str, list[int]]:
    """The tokens of each request, when all are at their end."""
    tokens: dict[str, list[int]] = {}
    step = 0
    while arrivals or engine.stats().running or engine.stats().waiting:
        for _, request in (arrival for arrival in arrivals if arrival[0] <= step):
            engine.add(request)
        arrivals = [arrival for arrival in arrivals if arrival[0] > step]
        for delta in engine.step(0):
            tokens.setdefault(delta.request_id, []).extend(delta.token_ids)
        step += 1
    return tokens


def open_engine(folder: Path, way: Mapping[str, Any], **fields: Any) -> PagedEngine:
    engine = PagedEngine(EngineConfig(model=folder, device="cpu", kv_memory_mb=1, block_size=8, **way, **fields))
    engine.open()
    return engine


@pytest.mark.parametrize("way", WAYS)
def test_a_request_gets_the_same_tokens_in_any_company(way: str, make_model: Callable[..., Path]) -> None:
    engine, examples = WAYS[way].engine, WAYS[way].examples
    folder = make_model(hidden_size=80, max_position_embeddings=128, **WAYS[way].model)
    lone = Lone(open_engine(folder, engine, prefix_cache=False))
    companies = [
        open_engine(folder, engine),
        open_engine(folder, engine, token_budget=7, max_running=5),
        open_engine(folder, engine, token_budget=24, max_running=3),
    ]
    # A pool that is too small for all of them at once: they preempt each other.
    companies[1]._open(8)

    @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))
    @example(asks=CROWD, company=companies[1])
    @given(asks=st.lists(ASKS, min_size=1, max_size=10), company=st.sampled_from(companies))
    def examine(asks: list[Ask], company: PagedEngine) -> None:
        expected = [lone.answer(ask) for ask in asks]
        begun = [answer[: min(ask.resumed, len(answer) - 1)] for ask, answer in zip(asks, expected, strict=True)]
        requests = [
            EngineRequest(
                request_id=str(i), prompt_ids=ask.prompt, sampling=ask.sampling, committed_ids=tuple(begun[i]), priority=ask.priority
            )
            for i, ask in enumerate(asks)
        ]
        tokens = run(company, [(ask.delay, request) for ask, request in zip(asks, requests, strict=True)])
        assert [begun[i] + tokens[str(i)] for i in range(len(asks))] == expected

    examine()
    assert companies[1].stats().preemptions > 0
