"""The vectorised sampler against a plain one, row by row."""

import math
import random
from typing import Any

import pytest
import torch
from torch import Tensor

from headrace.request import Sampling
from workers.engine.sampler import Draw, sample, uniform


def draw(position: int = 0, **fields: Any) -> Draw:
    return Draw(Sampling(**{"max_tokens": 1, "seed": 1, **fields}), position)


def plain_support(logits: list[float], sampling: Sampling) -> dict[int, float]:
    """Tokens that may be drawn, with their probabilities, by the definitions of temperature, top-k, top-p and min-p."""
    weights = [math.exp((x - max(logits)) / sampling.temperature) for x in logits]
    order = sorted(range(len(logits)), key=lambda i: -weights[i])
    if sampling.top_k:
        order = order[: sampling.top_k]
    kept: list[int] = []
    total, mass = sum(weights[i] for i in order), 0.0
    for i in order:
        if kept and mass >= sampling.top_p * total:
            break
        kept.append(i)
        mass += weights[i]
    kept = [i for i in kept if weights[i] >= sampling.min_p * max(weights)]
    return {i: weights[i] / sum(weights[j] for j in kept) for i in kept}


def random_logits(rows: int, vocab: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, vocab, generator=torch.Generator().manual_seed(seed)) * 3


def test_greedy_takes_the_best() -> None:
    logits = random_logits(5, 100)
    assert sample(logits, [draw(temperature=0.0)] * 5) == logits.argmax(-1).tolist()


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"temperature": 0.3},
        {"top_k": 1},
        {"top_k": 7},
        {"top_p": 0.5},
        {"top_p": 0.9, "top_k": 20, "temperature": 1.7},
        {"top_p": 0.01},
        {"min_p": 0.05},
        {"min_p": 1.0},
        {"min_p": 0.02, "top_p": 0.95, "temperature": 1.5},
    ],
)
def test_draws_follow_the_plain_distribution(fields: dict[str, Any]) -> None:
    n = 4000
    logits = random_logits(1, 50)
    drawn = sample(logits.expand(n, -1), [draw(position, **fields) for position in range(n)])
    expected = plain_support(logits[0].tolist(), draw(**fields).sampling)
    assert set(drawn) <= set(expected)
    for token, probability in expected.items():
        sigma = math.sqrt(probability * (1 - probability) / n)
        assert abs(drawn.count(token) / n - probability) <= 5 * sigma + 1e-9


def test_a_row_draws_the_same_alone_and_in_any_batch() -> None:
    rng = random.Random(0)
    logits = random_logits(40, 3000)
    kinds: list[dict[str, Any]] = [{"temperature": 0.0}, {}, {"top_p": 0.9}, {"top_k": 50}, {"top_k": 2000, "top_p": 0.99}, {"min_p": 0.01}]
    draws = [draw(position=i, seed=rng.randrange(2**63), **rng.choice(kinds)) for i in range(40)]
    together = sample(logits, draws)
    assert together == [sample(logits[i : i + 1], draws[i : i + 1])[0] for i in range(40)]
    order = list(range(40))
    rng.shuffle(order)
    assert sample(logits[order], [draws[i] for i in order]) == [together[i] for i in order]


def test_a_flat_distribution_needs_more_than_the_first_candidates() -> None:
    vocab = 5000
    drawn = sample(torch.zeros(300, vocab), [draw(position, top_p=0.999) for position in range(300)])
    assert len(set(drawn)) > 250
    some = sample(random_logits(1, vocab).expand(300, -1) * 0.01, [draw(position, top_k=3000) for position in range(300)])
    likely = sample(torch.zeros(300, vocab), [draw(position, min_p=0.5) for position in range(300)])
    assert len(set(likely)) > 250
    allowed = set(random_logits(1, vocab)[0].topk(3000).indices.tolist())
    assert set(some) <= allowed
    assert len(set(some)) > 250


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_row_that_is_no_number_fails_alone(bad: float) -> None:
    logits = random_logits(4, 100)
    logits[1, 17] = bad
    logits[2, 3] = bad
    draws = [draw(temperature=0.0), draw(temperature=0.0), draw(), draw()]
    result = sample(logits, draws)
    assert result[1] is None
    assert result[2] is None
    assert result[0] == int(logits[0].argmax())
    assert result[3] == sample(logits[3:], draws[3:])[0]


def test_a_row_of_minus_infinity_but_one_token_draws_that_token() -> None:
    logits = torch.full((2, 10), float("-inf"))
    logits[:, 4] = 1.0
    assert sample(logits, [draw(), draw(top_p=0.5)]) == [4, 4]


def test_extreme_temperatures_stay_numbers() -> None:
    logits = random_logits(2, 100) * 1000
    assert sample(logits, [draw(temperature=1e-9), draw(temperature=1e-9, top_k=5)]) == logits.argmax(-1).tolist()
    assert None not in sample(logits, [draw(temperature=2.0), draw(temperature=1e9)])


def test_uniform_numbers_are_fixed_and_spread_evenly() -> None:
    assert uniform(1, 0, 0) == 0.5026230818294767
    numbers = [uniform(seed, choice, position) for seed in range(20) for choice in range(3) for position in range(100)]
    assert len(set(numbers)) == len(numbers)
    assert all(0 <= number < 1 for number in numbers)
    counts = [0] * 10
    for number in numbers:
        counts[int(number * 10)] += 1
    assert max(abs(count - 600) for count in counts) < 120  # five standard deviations
    assert uniform(-1, 0, 0) == uniform(2**64 - 1, 0, 0)  # seeds of the other sign are seeds, too
