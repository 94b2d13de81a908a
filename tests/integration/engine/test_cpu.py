"""Linear layers and passes over rows on a CPU, against those of torch."""

from collections.abc import Callable

import numba
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from workers.engine import layers
from workers.engine.activations import Activations, tensor_of
from workers.engine.attention import Heads
from workers.engine.cpu import compiled
from workers.engine.cpu import linear as cpu_linear
from workers.engine.cpu import rows as cpu_rows
from workers.engine.cpu.linear import FloatLinear, Int8Linear
from workers.engine.kernels import activations_of
from workers.engine.linear import MakeLinear


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def through(layer: Callable[[Activations], Activations], x: Tensor) -> Tensor:
    return tensor_of(layer(activations_of(x)))


def error(result: Tensor, exact: Tensor) -> float:
    return float((result - exact).norm() / exact.norm())


@pytest.mark.parametrize(("make", "most"), [(FloatLinear, 1e-6), (Int8Linear, 0.01)])
@pytest.mark.parametrize(("depth", "width"), [(64, 96), (577, 100), (31, 7), (1, 1), (1536, 48)])
@pytest.mark.parametrize("rows", [1, 2, 5, 64, 100])
def test_products_are_close_to_exact_ones(make: MakeLinear, most: float, depth: int, width: int, rows: int) -> None:
    """Depths, widths and rows that fill tiles, strips and blocks, and that do not."""
    weight, bias, x = random(width, depth), random(width, seed=1), random(rows, depth, seed=2)
    assert error(through(make(weight, None), x), F.linear(x, weight)) < most
    assert error(through(make(weight, bias), x), F.linear(x, weight, bias)) < most


def test_channels_that_stand_out_do_not_drown_the_rest() -> None:
    weight, x = random(96, 576), random(8, 576, seed=1)
    x[:, 17] *= 50
    quiet = weight.clone()
    quiet[:, 17] = 0  # what is left of a product without the loud channel
    assert error(through(Int8Linear(quiet, None), x), x @ quiet.T) < 0.01


def test_sums_in_int8_do_not_overflow() -> None:
    """All numbers at their greatest, at a depth where 2^31 would be passed if activations kept their 16 bits."""
    weight, x = torch.ones(16, 4096), torch.full((3, 4096), 7.0)
    assert error(through(Int8Linear(weight, None), x), x @ weight.T) < 0.001


@pytest.mark.parametrize("make", [FloatLinear, Int8Linear])
@pytest.mark.parametrize("together", [2, 3, 16, 59, 64, 200])
def test_a_row_gets_the_same_bits_in_any_company(make: MakeLinear, together: int) -> None:
    linear, x = make(random(200, 576), None), random(together, 576, seed=1)
    alone = torch.cat([through(linear, x[i : i + 1]) for i in range(together)])
    assert torch.equal(through(linear, x), alone)


@pytest.mark.parametrize("make", [FloatLinear, Int8Linear])
def test_a_row_of_zeros_is_zero(make: MakeLinear) -> None:
    assert torch.equal(through(make(random(8, 64), None), torch.zeros(2, 64)), torch.zeros(2, 8))


@pytest.mark.parametrize("make", [FloatLinear, Int8Linear])
@pytest.mark.parametrize("bad", [(torch.nan,), (torch.inf,), (-torch.inf,), (torch.inf, -torch.inf), (torch.nan, 1e4)])
@pytest.mark.parametrize("place", [0, 3, 61])
def test_what_is_no_number_comes_through(make: MakeLinear, bad: tuple[float, ...], place: int) -> None:
    """In int8 too, where it is rounded to some integer first. Any columns, also those of a strip that is not full."""
    x = random(2, 64)
    x[0, place : place + len(bad)] = torch.tensor(bad)
    result = through(make(random(37, 64), random(37, seed=1)), x)
    assert result[1].isfinite().all()
    assert not result[0].isfinite().any()


@pytest.mark.parametrize("rows", [1, 33])
def test_rms_norm_is_that_of_torch(rows: int) -> None:
    x, weight = random(rows, 576), random(576, seed=1)
    torch.testing.assert_close(through(cpu_rows.RmsNorm(weight, 1e-5), x), F.rms_norm(x, (576,), weight, 1e-5))


def test_norms_of_heads_are_those_of_torch() -> None:
    heads = Heads(query=4, kv=2, dim=16)
    x, query, key = random(33, heads.qkv_width), random(16, seed=1), random(16, seed=2)
    expected = layers.HeadNorms(torch.cat((query.expand(4, -1), key.expand(2, -1))), 1e-5)(x.clone())
    torch.testing.assert_close(through(layers.make_head_norms(query, key, heads, 1e-5), x), expected)


@pytest.mark.parametrize("name", ["silu_and_mul", "gelu_tanh_and_mul"])
def test_activations_are_those_of_torch(name: str) -> None:
    x = torch.cat((random(64, 128) * 5, torch.tensor([0.0, -1e4, 1e4, torch.nan]).repeat(1, 32)))
    torch.testing.assert_close(through(getattr(cpu_rows, name), x), getattr(layers, name)(x), rtol=1e-5, atol=1e-5, equal_nan=True)


@pytest.mark.parametrize("make", [FloatLinear, Int8Linear])
@pytest.mark.parametrize("width", [200, 96, 7])
@pytest.mark.parametrize("threads", [2, 3, 7])
def test_a_product_is_the_same_for_any_number_of_threads(
    make: MakeLinear, width: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shares of strips of columns, the last of which is not full; with seven threads of a narrow weight some have none."""
    product, x = make(random(width, 576), random(width, seed=3)), random(100, 576, seed=1)

    def compute(threads: int) -> Tensor:
        monkeypatch.setattr(cpu_linear, "THREADS", threads)
        return through(product, x)

    assert torch.equal(compute(threads), compute(1))


@pytest.mark.parametrize("threads", [2, 3, 7])
@pytest.mark.parametrize("layer", [cpu_rows.RmsNorm(random(2_000, seed=1), 1e-5), cpu_rows.silu_and_mul, cpu_rows.gelu_tanh_and_mul])
def test_rows_are_the_same_for_any_number_of_threads(
    layer: Callable[[Activations], Activations], threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = random(150, 2_000)

    def compute(threads: int) -> Tensor:
        monkeypatch.setattr(cpu_rows, "THREADS", threads)
        return through(layer, x)

    assert torch.equal(compute(threads), compute(1))


@pytest.mark.parametrize(("threads", "work", "taken"), [(4, 1000, 4), (4, 250, 2), (4, 99, 1), (4, 0, 1), (1, 1000, 1)])
def test_a_thread_is_woken_for_a_share_that_is_worth_it(threads: int, work: int, taken: int) -> None:
    before = numba.get_num_threads()
    try:
        assert compiled.take_threads(work, 100, threads) == taken
        assert numba.get_num_threads() == taken
    finally:
        compiled.take_threads(before, 1, before)


@pytest.mark.parametrize("rows", [1, 33])
def test_the_greatest_of_a_row(rows: int) -> None:
    x = random(rows, 1_003) - 5.0
    x[0, 7] = x[0, 900] = 3.0  # the first of equals
    places, sound = cpu_rows.greatest(x.numpy())
    assert places.tolist() == x.argmax(-1).tolist()
    assert places[0] == 7
    assert sound.all()


@pytest.mark.parametrize(
    ("numbers", "sound"),
    [
        ([1.0, torch.nan, 2.0], False),
        ([1.0, -torch.nan, 2.0], False),
        ([1.0, torch.inf, 2.0], False),
        ([-torch.inf] * 3, False),
        ([-torch.inf, -7.0, -torch.inf], True),
        ([-0.0, -1.0, -2.0], True),
    ],
)
def test_a_row_without_a_greatest_number_is_told(numbers: list[float], sound: bool) -> None:
    places, told = cpu_rows.greatest(torch.tensor([numbers]).numpy())
    assert told.tolist() == [sound]
    assert not sound or places[0] == torch.tensor(numbers).argmax()
