"""The scheduler's metrics: what the sweeps moved, how deep the queue is, and whether batches are worked on."""

from collections.abc import Iterable
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from headrace.load import Load
from scheduler.dispatcher import Look


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """What the state store holds."""

    load: Load
    live_batches: int
    stalled_batches: int
    """Of the live ones."""


class SchedulerMetrics(Collector):
    """What was seen last. Of a store that did not answer then only its `…_up 0` is shown: old values would be a lie."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._swept = Counter("headrace_janitor_jobs_total", "Jobs moved by a sweep.", ["sweep"], registry=self.registry)
        self._sample: Sample | None = None
        self._look: Look | None = None
        self.registry.register(self)

    def swept(self, sweep: str, jobs: int) -> None:
        self._swept.labels(sweep).inc(jobs)

    def observe(self, sample: Sample | None) -> None:
        """None if it could not be had."""
        self._sample = sample

    def looked(self, look: Look | None) -> None:
        """At the clerks' tasks; None if they could not be seen."""
        self._look = look

    def collect(self) -> Iterable[GaugeMetricFamily]:
        # Read once: a scrape runs in a thread of its own.
        sample, look = self._sample, self._look
        yield GaugeMetricFamily("headrace_queue_up", "1 if the state store answered the last sample.", value=sample is not None)
        if sample is not None:
            yield from _of_load(sample.load)
            yield GaugeMetricFamily("headrace_live_batches", "Batches that have not ended.", value=sample.live_batches)
            yield GaugeMetricFamily("headrace_stalled_batches", "Batches that wait for Kafka.", value=sample.stalled_batches)
        yield GaugeMetricFamily("headrace_task_queue_up", "1 if the clerks' task queue answered the last look.", value=look is not None)
        if look is not None:
            yield GaugeMetricFamily("headrace_clerk_tasks_waiting", "Tasks that no clerk has taken.", value=look.waiting)
            yield GaugeMetricFamily(
                "headrace_clerk_task_waited_seconds", "For how long the next task has been the next one.", value=look.waited_s
            )


def _of_load(load: Load) -> Iterable[GaugeMetricFamily]:
    depth = GaugeMetricFamily("headrace_queue_depth", "Jobs waiting in a lane.", labels=["model", "lane"])
    for lane in load.lanes:
        depth.add_metric([lane.model, lane.lane], lane.queued)
    yield depth
    yield GaugeMetricFamily("headrace_jobs_running", "Jobs leased to a worker.", value=load.running)
    yield GaugeMetricFamily("headrace_jobs_delayed", "Jobs waiting for their time.", value=load.delayed)
    yield GaugeMetricFamily("headrace_live_cost_tokens", "Token cost (prompt + max_tokens) of all live jobs.", value=load.cost)
