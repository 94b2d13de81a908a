"""The scheduler's metrics: what the sweeps moved, and how deep the queue is."""

from prometheus_client import CollectorRegistry, Counter, Gauge

from headrace.ports import Load


class SchedulerMetrics:
    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._swept = Counter("headrace_janitor_jobs_total", "Jobs moved by a sweep.", ["sweep"], registry=self.registry)
        self._depth = Gauge("headrace_queue_depth", "Jobs waiting in a lane.", ["model", "lane"], registry=self.registry)
        self._running = Gauge("headrace_jobs_running", "Jobs leased to a worker.", registry=self.registry)
        self._delayed = Gauge("headrace_jobs_delayed", "Jobs waiting for their time.", registry=self.registry)
        self._cost = Gauge("headrace_live_cost_tokens", "Token cost (prompt + max_tokens) of all live jobs.", registry=self.registry)

    def swept(self, sweep: str, jobs: int) -> None:
        self._swept.labels(sweep).inc(jobs)

    def observe(self, load: Load) -> None:
        self._depth.clear()  # a lane that ran empty must not keep its last value
        for lane in load.lanes:
            self._depth.labels(lane.model, lane.lane).set(lane.queued)
        self._running.set(load.running)
        self._delayed.set(load.delayed)
        self._cost.set(load.cost)
