import pytest

from headrace.errors import QueueFull, QueueUnavailable, TenantFull
from headrace.testing.builders import ManualClock
from producer_api.envelope import TELL_EVERY_S, Refusals

MINUTE = int(TELL_EVERY_S * 1_000)
AWAY = QueueUnavailable("it did not answer")
FULL = QueueFull("the queue is full: 9 live jobs, the limit is 9", retry_after=1.0)
ITS_OWN = TenantFull("your tenant has 3 live jobs, the limit is 3", retry_after=1.0)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def refusals(clock: ManualClock) -> Refusals:
    return Refusals(lambda: clock.now_ms / 1_000)


@pytest.mark.parametrize("why", [AWAY, FULL], ids=["the store is away", "the queue is full"])
def test_thousands_of_refusals_are_a_line_a_minute(
    refusals: Refusals, clock: ManualClock, caplog: pytest.LogCaptureFixture, why: QueueUnavailable | QueueFull
) -> None:
    def refuse(times: int) -> list[str]:
        caplog.clear()
        for i in range(times):
            refusals.count(why, f"tenant-{i}")
        return [record.getMessage() for record in caplog.records]

    assert refuse(1_000) == [f"requests refused count=1 why={why}"]
    clock.advance(MINUTE - 1)
    assert refuse(1) == []
    clock.advance(1)
    assert refuse(3) == [f"requests refused count=1001 why={why}"]


def test_reasons_are_told_apart(refusals: Refusals, caplog: pytest.LogCaptureFixture) -> None:
    for why in (AWAY, FULL, ITS_OWN) * 2:
        refusals.count(why, "alice")
    assert [record.getMessage() for record in caplog.records] == [
        f"requests refused count=1 why={AWAY}",
        f"requests refused count=1 why={FULL}",
        "requests refused count=1 why=a tenant's bound is reached, most=alice with 1",
    ]


def test_of_a_flood_the_tenant_that_was_refused_most_is_named(
    refusals: Refusals, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    refusals.count(ITS_OWN, "alice")
    for tenant in ("bob", "carol", "bob"):
        refusals.count(ITS_OWN, tenant)
    clock.advance(MINUTE)
    refusals.count(ITS_OWN, "dave")
    assert caplog.records[-1].getMessage() == "requests refused count=4 why=a tenant's bound is reached, most=bob with 2"
