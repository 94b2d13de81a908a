"""Linear layers in 8 bits, and the compiled passes over rows."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from headrace.errors import ModelUnavailable
from workers.engine import rows_numba
from workers.engine.int8 import Int8Linear, greatest_activation
from workers.engine.linear import linear_maker


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def error(result: Tensor, exact: Tensor) -> float:
    return float((result - exact).norm() / exact.norm())


@pytest.mark.parametrize("width", [64, 80, 576, 1536])
@pytest.mark.parametrize("rows", [1, 5, 64])
def test_products_are_close_to_exact_ones(width: int, rows: int) -> None:
    weight, bias, x = random(96, width), random(96, seed=1), random(rows, width, seed=2)
    assert error(Int8Linear(weight, bias)(x), F.linear(x, weight, bias)) < 0.02


def test_channels_that_stand_out_do_not_drown_the_rest() -> None:
    weight, x = random(96, 576), random(8, 576, seed=1)
    x[:, 17] *= 50
    quiet = weight.clone()
    quiet[:, 17] = 0  # what is left of a product without the loud channel
    assert error(Int8Linear(quiet, None)(x), x @ quiet.T) < 0.1


@pytest.mark.parametrize("together", [2, 3, 16, 59, 64])
def test_a_row_gets_the_same_bits_in_any_company(together: int) -> None:
    linear, x = Int8Linear(random(200, 576), None), random(together, 576, seed=1)
    alone = torch.cat([linear(x[i : i + 1]) for i in range(together)])
    assert torch.equal(linear(x), alone)


def test_a_row_of_zeros_is_zero() -> None:
    assert torch.equal(Int8Linear(random(8, 64), None)(torch.zeros(2, 64)), torch.zeros(2, 8))


def test_not_a_number_comes_through() -> None:
    x = random(2, 64)
    x[0, 3] = torch.nan
    result = Int8Linear(random(8, 64), None)(x)
    assert result[1].isfinite().all()
    assert not result[0].isfinite().any()


def test_a_row_of_one_number_does_not_saturate() -> None:
    # All its activations are at their greatest once it is turned.
    weight, x = random(512, 576), torch.zeros(4, 576)
    x[range(4), [0, 100, 300, 575]] = 1000.0
    assert error(Int8Linear(weight, None)(x), x @ weight.T) < 0.02
    assert greatest_activation() in (86, 127)


def test_a_weight_of_odd_width_is_refused() -> None:
    with pytest.raises(ModelUnavailable, match=r"int8 needs .* an even number of inputs, not \(4, 7\).*HEADRACE_DTYPE=fp32"):
        linear_maker("int8", batch_invariant=False)(random(4, 7), None)


def test_rms_norm_is_that_of_torch() -> None:
    x, weight = random(33, 576), random(576, seed=1)
    torch.testing.assert_close(rows_numba.rms_norm(x, weight, 1e-5), F.rms_norm(x, (576,), weight, 1e-5))


@pytest.mark.parametrize("turns", [2, 6, 8])
def test_turning_keeps_products(turns: int) -> None:
    a, b = random(4, 576), random(4, 576, seed=1)
    (x, s), (y, t) = rows_numba.spread(a, turns, 127.0), rows_numba.spread(b, turns, 127.0)
    torch.testing.assert_close((x * s) @ (y * t).T * 2.0**-turns, a @ b.T, rtol=1e-4, atol=1e-3)
    assert torch.allclose(x.abs().amax(1), torch.tensor(127.0))
