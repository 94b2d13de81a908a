import pytest

from headrace.state import Fault, failure
from headrace.tally import TELL_EVERY_S
from headrace.testing.builders import ManualClock
from workers.failures import Failures

MINUTE = int(TELL_EVERY_S * 1_000)
NONSENSE = failure(Fault.ENGINE_ERROR, "the model's output for this request is not a number")


def test_thousands_of_failures_are_a_line_a_minute_for_each_fault(caplog: pytest.LogCaptureFixture) -> None:
    clock = ManualClock()
    failures = Failures(lambda: clock.now_ms / 1_000)
    for i in range(1_000):
        failures.count(f"job-{i}", NONSENSE)
        failures.count(f"other-{i}", "token id 9 is outside the vocabulary of 8")
    clock.advance(MINUTE)
    failures.count("late", NONSENSE)
    failures.count("later", NONSENSE)
    assert [record.getMessage() for record in caplog.records] == [
        "jobs failed count=1 fault=engine_error, the last is job-0: the model's output for this request is not a number",
        "jobs failed count=1 fault=none, the last is other-0: token id 9 is outside the vocabulary of 8",
        "jobs failed count=1000 fault=engine_error, the last is late: the model's output for this request is not a number",
    ]
