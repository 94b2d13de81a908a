"""The arithmetic of the limit."""

import pytest

from benchmarks.roofline import Curve, Limits, Step, account, kv_bytes
from workers.engine.planner import Row

LIMITS = Limits(layers=Curve(((1, 0.010), (64, 0.136), (512, 1.032))), head=Curve(((1, 0.002), (64, 0.065))), bandwidth=1e9)


def _row(start: int, count: int) -> Row:
    return Row(
        sequence_id="a", slot=0, start=start, token_ids=(0,) * count, first_block=0, new_blocks=(), filled=0, sampling=None, position=0
    )


@pytest.mark.parametrize(
    ("rows", "seconds"),
    [(0, 0.0), (1, 0.010), (32, 0.072), (64, 0.136), (288, 0.584), (512, 1.032), (1_024, 2.064)],
    ids=["none", "the first", "between", "measured", "between the next", "the last", "twice the last"],
)
def test_curve(rows: int, seconds: float) -> None:
    assert LIMITS.layers.at(rows) == pytest.approx(seconds)


def test_below_the_first_measurement_nothing_gets_cheaper() -> None:
    assert Curve(((8, 0.5), (16, 0.6))).at(3) == 0.5


def test_a_step_is_its_products_and_its_bytes() -> None:
    step = Step(tokens=512, sampled=1, kv_bytes=500_000_000, prefill=True, seconds=9.0)

    assert LIMITS.seconds(step) == pytest.approx(1.032 + 0.002 + 0.5)


def test_bytes_are_what_lies_in_the_cache_and_what_is_added() -> None:
    rows = [_row(start=100, count=1), _row(start=0, count=20)]

    assert kv_bytes(rows, [(10, None)]) == 10 * (101 + 20)
    assert kv_bytes(rows, [(10, None), (10, None)]) == 20 * (101 + 20)
    assert kv_bytes(rows, [(10, 16)]) == 10 * (15 + 1 + 20), "a window of 16 sees 15 tokens before the newest"


def test_account() -> None:
    prefill = Step(tokens=512, sampled=1, kv_bytes=0, prefill=True, seconds=2.068)
    decode = Step(tokens=64, sampled=64, kv_bytes=0, prefill=False, seconds=0.402)

    told = account([prefill, decode, decode], LIMITS, seconds=3.0, output_tokens=129)

    assert told["prefill"] == {"steps": 1, "tokens": 512, "seconds": 2.068, "roofline_s": 1.034, "roofline_share": 0.5}
    assert told["decode"]["tokens"] == 128
    assert told["decode"]["roofline_share"] == pytest.approx(0.5)
    assert told["bookkeeping_s"] == pytest.approx(3.0 - 2.068 - 2 * 0.402)
    assert told["bookkeeping_share"] == pytest.approx(0.128 / 3.0)
    assert told["roofline_share"] == pytest.approx((1.034 + 0.402) / 3.0)
    assert told["roofline_tokens_per_s"] == pytest.approx(129 / 1.436)


def test_no_step_of_a_kind_has_no_share() -> None:
    prefill = Step(tokens=512, sampled=1, kv_bytes=0, prefill=True, seconds=2.0)

    assert account([prefill], LIMITS, seconds=2.0, output_tokens=1)["decode"] is None
