"""What requests change about their logits, and what they are told of them, against plain sums row by row."""

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from headrace.logprobs import Logprobs
from headrace.request import Sampling
from workers.engine.logit_rules import LogitRules
from workers.engine.next_token import next_tokens, tell
from workers.engine.sampler import Draw, sample

VOCAB = 40
EOS = 3

tokens = st.lists(st.integers(0, VOCAB - 1), max_size=30)
samplings = st.fixed_dictionaries(
    {},
    optional={
        "temperature": st.sampled_from([0.0, 0.7, 1.0]),
        "top_k": st.sampled_from([0, 5]),
        "min_p": st.sampled_from([0.0, 0.2]),
        "presence_penalty": st.floats(-2, 2),
        "frequency_penalty": st.floats(-2, 2),
        "repetition_penalty": st.floats(0.5, 2),
        "logit_bias": st.dictionaries(st.integers(0, VOCAB - 1), st.floats(-100, 100), max_size=5).map(lambda d: tuple(sorted(d.items()))),
        "min_tokens": st.integers(0, 20),
        "stop_token_ids": st.lists(st.integers(0, VOCAB - 1), max_size=2).map(tuple),
        "logprobs": st.none() | st.integers(0, 20),
        "seed": st.integers(0, 2**63 - 1),
    },
)
rows = st.tuples(samplings, tokens, tokens)


def make_sampling(fields: dict[str, Any]) -> Sampling:
    return Sampling(**{"max_tokens": 99, "seed": 1, **fields})


def make_draw(fields: dict[str, Any], prompt: Sequence[int], generated: Sequence[int]) -> Draw:
    sampling = make_sampling(fields)
    rules = LogitRules.of(sampling, {EOS, *sampling.stop_token_ids}, prompt_ids=prompt, generated_ids=generated)
    return Draw(sampling, len(generated), rules=rules)


def make_logits(count: int) -> Tensor:
    return torch.randn(count, VOCAB, generator=torch.Generator().manual_seed(count)) * 3


def plain_shape(logits: list[float], sampling: Sampling, prompt: Sequence[int], generated: Sequence[int]) -> list[float]:
    shaped = list(logits)
    for token in range(len(logits)):
        count = list(generated).count(token)
        if count or token in prompt:
            value = shaped[token]
            shaped[token] = value / sampling.repetition_penalty if value > 0 else value * sampling.repetition_penalty
        shaped[token] -= sampling.frequency_penalty * count + (sampling.presence_penalty if count else 0.0)
    for token, bias in sampling.logit_bias:
        shaped[token] += bias
    if len(generated) < sampling.min_tokens:
        for token in (EOS, *sampling.stop_token_ids):
            shaped[token] = -math.inf
    return shaped


@settings(deadline=None, max_examples=200)
@given(st.lists(rows, min_size=1, max_size=6))
def test_a_batch_is_shaped_as_each_row_by_itself(batch: list[tuple[dict[str, Any], list[int], list[int]]]) -> None:
    logits = make_logits(len(batch))
    before = logits.tolist()
    sample(logits, [make_draw(*row) for row in batch])
    for shaped, plain, (fields, prompt, generated) in zip(logits.tolist(), before, batch, strict=True):
        expected = plain_shape(plain, make_sampling(fields), prompt, generated)
        assert shaped == pytest.approx(expected, abs=1e-4)


@settings(deadline=None, max_examples=200)
@given(st.lists(rows, min_size=1, max_size=6), st.randoms())
def test_no_row_depends_on_its_mates(batch: list[tuple[dict[str, Any], list[int], list[int]]], rng: Any) -> None:
    logits = make_logits(len(batch))
    draws = [make_draw(*row) for row in batch]
    together = next_tokens(logits.clone(), draws)
    assert together == [next_tokens(logits[i : i + 1].clone(), [draw])[0] for i, draw in enumerate(draws)]
    order = list(range(len(batch)))
    rng.shuffle(order)
    assert next_tokens(logits[order], [draws[i] for i in order]) == [together[i] for i in order]


def test_rows_without_rules_keep_their_logits() -> None:
    logits = make_logits(3)
    draws = [make_draw({}, [1], [2]), make_draw({"presence_penalty": 1.0}, [1], [2]), make_draw({}, [1], [2])]
    assert [draw.rules is None for draw in draws] == [True, False, True]
    before = logits.clone()
    sample(logits, draws)
    assert torch.equal(logits[[0, 2]], before[[0, 2]])
    assert (logits != before).nonzero().tolist() == [[1, 2]]


def test_counts_follow_the_tokens() -> None:
    ids = [*range(700), 5, 5]
    rules = LogitRules.of(make_sampling({"repetition_penalty": 1.1}), {EOS}, prompt_ids=[5, 800], generated_ids=ids[:300])
    assert rules is not None
    for token in ids[300:]:
        rules.add(token)
    counts = dict(zip(rules.seen, rules.counts, strict=True))
    assert counts == {**dict.fromkeys(range(700), 1.0), 5: 3.0, 800: 0.0}


@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(st.none() | st.integers(0, 20), st.booleans()), min_size=1, max_size=6))
def test_logprobs_are_of_the_logits_as_they_came(asked: list[tuple[int | None, bool]]) -> None:
    logits = make_logits(len(asked))
    plain = [[x - math.log(sum(map(math.exp, row))) for x in row] for row in logits.tolist()]
    hot = {"temperature": 0.3, "top_k": 3, "logit_bias": ((7, 50.0),), "frequency_penalty": 2.0}
    draws = [make_draw({"logprobs": top, **(hot if is_hot else {"temperature": 0.0})}, [], [1, 1]) for top, is_hot in asked]
    for (top, is_hot), row, found in zip(asked, plain, next_tokens(logits, draws), strict=True):
        assert found is not None
        assert found.id == (7 if is_hot else max(range(VOCAB), key=row.__getitem__))
        if top is None:
            assert found.logprobs is None
            continue
        assert found.logprobs is not None
        assert found.logprobs.chosen == pytest.approx(row[found.id], abs=1e-5)
        likeliest = sorted(range(VOCAB), key=lambda token: -row[token])[:top]
        assert [token for token, _ in found.logprobs.top] == likeliest
        assert [value for _, value in found.logprobs.top] == pytest.approx([row[token] for token in likeliest], abs=1e-5)


def test_more_rows_than_a_slice_are_told_alike() -> None:
    logits = make_logits(150)
    ids = logits.argmin(-1).tolist()
    assert tell(logits, ids, [2] * 150) == [tell(logits[i : i + 1], ids[i : i + 1], [2])[0] for i in range(150)]


def test_what_has_no_probability_is_told_as_a_number() -> None:
    logits = torch.full((1, 5), float("-inf"))
    logits[0, 1] = 1.0
    assert tell(logits, [4], [3])[0].chosen == -9999.0
    assert tell(logits, [1], [1]) == [Logprobs(0.0, ((1, 0.0),))]


def test_a_broken_row_is_none_beside_one_that_tells() -> None:
    logits = make_logits(2)
    logits[0, 0] = float("nan")
    broken, good = next_tokens(logits, [make_draw({"logprobs": 1}, [], [])] * 2)
    assert broken is None
    assert good is not None
    assert good.logprobs is not None
