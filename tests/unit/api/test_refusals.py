import pytest

from headrace.errors import QueueUnavailable
from headrace.testing.builders import ManualClock
from producer_api.envelope import TELL_EVERY_S, Refusals


def test_an_outage_that_refuses_thousands_is_a_line_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    clock = ManualClock()
    refusals = Refusals(lambda: clock.now_ms / 1_000)

    def refuse(times: int) -> list[str]:
        caplog.clear()
        for _ in range(times):
            refusals.count(QueueUnavailable("it did not answer"))
        return [record.getMessage() for record in caplog.records]

    assert refuse(1_000) == ["requests refused count=1 why=it did not answer"]
    clock.advance(int(TELL_EVERY_S * 1_000) - 1)
    assert refuse(1) == []
    clock.advance(1)
    assert refuse(3) == ["requests refused count=1001 why=it did not answer"]
