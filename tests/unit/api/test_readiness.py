import pytest

from headrace.testing.builders import make_status
from headrace.worker_status import WorkerStatus
from producer_api.readiness import LATE_S, scheduler_part, workers_part


def worker(model: str, *, standby: bool = False) -> WorkerStatus:
    return make_status(f"{model}-{standby}", model=model, standby=standby)


@pytest.mark.parametrize(
    ("swept_s_ago", "interval_s", "status"),
    [
        (None, 0.5, "unknown"),
        (0.0, 0.5, "ok"),
        (LATE_S, 0.5, "ok"),
        (LATE_S + 0.001, 0.5, "late"),
        (299.0, 60.0, "ok"),  # a scheduler that was told to sweep once a minute
        (301.0, 60.0, "late"),
    ],
)
def test_a_scheduler_is_late_when_no_round_ends(swept_s_ago: float | None, interval_s: float, status: str) -> None:
    part = scheduler_part(swept_s_ago, interval_s=interval_s)
    assert (part["status"], part["swept_s_ago"]) == (status, swept_s_ago)
    assert ("why" in part) == (status == "late")


def test_each_model_has_its_workers() -> None:
    part = workers_part(["a", "b"], [worker("a"), worker("a", standby=True), worker("other")])
    assert part == {
        "status": "missing",
        "live": 2,
        "standbys": 1,
        "models": {"a": 1, "b": 0, "other": 1},
        "why": "no worker runs b: requests are accepted and wait",
    }
    assert workers_part(["a"], [worker("a")])["status"] == "ok"
    assert workers_part(["a"], None)["status"] == "unknown"
