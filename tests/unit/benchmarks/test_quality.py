import math

import pytest

from benchmarks.quality import Cost, cost
from headrace.logprobs import Logprobs


def told(*places: tuple[float, int]) -> list[Logprobs]:
    """Of each place the log-probability of its token, and the likeliest one."""
    return [Logprobs(chosen, ((likeliest, -0.1),)) for chosen, likeliest in places]


def test_the_first_costs_nothing() -> None:
    first = told((-1.0, 5), (-3.0, 6))
    its = cost(first, first)
    assert its == Cost(its.perplexity, worse=0, error=0, same=1)
    assert its.perplexity == pytest.approx(math.exp(2))


def test_what_a_probability_loses_everywhere_perplexity_gains_without_doubt() -> None:
    its = cost(told((-1.0, 5), (-3.0, 6), (-2.0, 7), (-2.0, 8)), told((-1.01, 5), (-3.01, 6), (-2.01, 9), (-2.01, 8)))
    assert its.worse == pytest.approx(math.exp(0.01) - 1)
    assert its.error == pytest.approx(0, abs=1e-12)
    assert its.same == 0.75


def test_losses_that_scatter_are_known_less_well() -> None:
    its = cost(told((-1.0, 5), (-1.0, 5)), told((-1.1, 5), (-0.9, 5)))
    assert its.worse == pytest.approx(0, abs=1e-12)
    assert its.error == pytest.approx(0.1)


def test_readings_of_different_places_are_not_compared() -> None:
    with pytest.raises(ValueError, match="zip"):
        cost(told((-1.0, 5), (-1.0, 5)), told((-1.0, 5)))
