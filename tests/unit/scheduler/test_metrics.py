from prometheus_client import generate_latest

from headrace.load import Depth, Load
from headrace.request import Lane
from scheduler.dispatcher import Look
from scheduler.metrics import Sample, SchedulerMetrics

LOAD = Load(lanes=(Depth(model="m", lane=Lane.BATCH, queued=7),), running=3, delayed=2, cost=900)
SAMPLE = Sample(load=LOAD, live_batches=5, stalled_batches=2)


def values(metrics: SchedulerMetrics) -> dict[str, float]:
    lines = generate_latest(metrics.registry).decode().splitlines()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))}


def test_what_was_seen_last_is_shown() -> None:
    metrics = SchedulerMetrics()
    metrics.observe(SAMPLE)
    metrics.looked(Look(waiting=4, waited_s=31.5))
    assert values(metrics) == {
        "headrace_queue_up": 1,
        'headrace_queue_depth{lane="batch",model="m"}': 7,
        "headrace_jobs_running": 3,
        "headrace_jobs_delayed": 2,
        "headrace_live_cost_tokens": 900,
        "headrace_live_batches": 5,
        "headrace_stalled_batches": 2,
        "headrace_task_queue_up": 1,
        "headrace_clerk_tasks_waiting": 4,
        "headrace_clerk_task_waited_seconds": 31.5,
    }


def test_of_a_store_that_does_not_answer_no_old_value_is_shown() -> None:
    metrics = SchedulerMetrics()
    metrics.observe(SAMPLE)
    metrics.looked(Look(waiting=4, waited_s=31.5))
    metrics.observe(None)
    metrics.looked(None)
    assert values(metrics) == {"headrace_queue_up": 0, "headrace_task_queue_up": 0}
