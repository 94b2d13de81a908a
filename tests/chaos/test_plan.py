"""The same seed gives the same run, and a short one has every fault."""

from tests.chaos.batch_orders import BatchKind, make_batches
from tests.chaos.orders import Kind, make_orders
from tests.chaos.plan import Fault, make_plan


def encode(messages: object) -> tuple[int, ...]:
    return (len(str(messages)),)


def test_everything_follows_from_the_seed() -> None:
    assert make_plan(1, 5_000) == make_plan(1, 5_000)
    assert make_plan(1, 5_000) != make_plan(2, 5_000)
    assert make_orders(1, 500, encode) == make_orders(1, 500, encode)
    assert make_orders(1, 500, encode) != make_orders(2, 500, encode)
    assert make_batches(1, 60, 400, encode) == make_batches(1, 60, 400, encode)
    assert make_batches(1, 60, 400, encode) != make_batches(2, 60, 400, encode)


def test_a_short_run_has_every_fault_while_there_is_work() -> None:
    plan = make_plan(3, 300)
    assert {strike.fault for strike in plan} == set(Fault)
    assert all(0 < strike.after < 300 for strike in plan)
    assert [strike.after for strike in plan] == sorted(strike.after for strike in plan)


def test_a_short_run_has_every_kind_of_order() -> None:
    orders = make_orders(4, 300, encode)
    assert {order.kind for order in orders} == set(Kind)
    assert len({order.key for order in orders}) == 300
    assert {len(order.choices) for order in orders} == {1, 2, 3}


def test_a_short_run_has_every_kind_of_batch() -> None:
    batches = make_batches(5, 36, 264, encode)
    assert {batch.kind for batch in batches} == set(BatchKind)
    assert all(0 <= batch.after < 264 for batch in batches)
    lines = [line for batch in batches for line in batch.lines]
    assert len({line.custom_id for line in lines}) == len(lines) == 36
    assert [batch.kind for batch in batches if any(line.poisonous for line in batch.lines)] == [BatchKind.WHOLE]
    assert {batch.kind for batch in batches if any(line.flaw for line in batch.lines)} == {BatchKind.FAULTY}
