"""What /metrics shows."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from headrace.load import Load
from headrace.worker_status import WorkerStatus
from producer_api.worker_metrics import of_workers

_SECONDS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """What one scrape found; None where nobody answered, or it is not known."""

    load: Load | None = None
    workers: Sequence[WorkerStatus] | None = None
    swept_s_ago: float | None = None
    """Since a janitor last ended a round."""
    files_free: int | None = None
    """Bytes."""
    log_up: bool | None = None
    """None: there is no log before the queue."""


class ScrapeGauges(Collector):
    """Queue and disk at this scrape. Of a queue that does not answer only `headrace_queue_up 0` is shown: old values would be a lie."""

    seen = Seen()

    def collect(self) -> Iterable[Metric]:
        load, workers, swept_s, free = self.seen.load, self.seen.workers, self.seen.swept_s_ago, self.seen.files_free
        if workers is not None:
            standbys = sum(worker.standby for worker in workers)
            yield GaugeMetricFamily("headrace_workers", "Engine processes that take work", value=len(workers) - standbys)
            yield GaugeMetricFamily("headrace_standbys", "Engine processes that are warmed up and wait for their turn", value=standbys)
            yield from of_workers(workers)
        if swept_s is not None:
            yield GaugeMetricFamily("headrace_janitor_age_seconds", "Since a janitor last ended a round of sweeps", value=swept_s)
        if free is not None:
            yield GaugeMetricFamily("headrace_files_free_bytes", "Room left for files and batches", value=free)
        if self.seen.log_up is not None:
            yield GaugeMetricFamily("headrace_log_up", "1 if Kafka takes requests, for all that is known", value=self.seen.log_up)
        yield GaugeMetricFamily("headrace_queue_up", "1 if the queue answered this scrape", value=load is not None)
        if load is None:
            return
        yield GaugeMetricFamily("headrace_active_requests", "Requests running on workers", value=load.running)
        yield GaugeMetricFamily("headrace_delayed_requests", "Requests waiting to be queued again", value=load.delayed)
        yield GaugeMetricFamily("headrace_live_cost_tokens", "Prompt and answer tokens of all live requests, at most", value=load.cost)
        depth = GaugeMetricFamily("headrace_queue_depth", "Requests waiting in a lane", labels=["model", "lane"])
        for lane in load.lanes:
            depth.add_metric([lane.model, lane.lane], lane.queued)
        yield depth
        ended = CounterMetricFamily("headrace_jobs_ended", "Jobs that have ended, by what became of them", labels=["state", "fault"])
        for ending in load.ended:
            ended.add_metric([ending.state, ending.fault or ""], ending.jobs)
        yield ended


class Metrics:
    """A registry of the app's own, so that several apps live in one process."""

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()
        self._scrape = ScrapeGauges()
        registry.register(self._scrape)
        self.requests = Counter("headrace_http_requests", "HTTP requests answered", ["method", "route", "status"], registry=registry)
        self.open_streams = Gauge("headrace_open_streams", "Event streams open now", registry=registry)
        self.accept_seconds = Histogram(
            "headrace_accept_seconds", "From the request to its durable place in the queue", buckets=_SECONDS, registry=registry
        )
        self.append_seconds = Histogram(
            "headrace_log_append_seconds", "Until Kafka acknowledged a request, or it was given up", buckets=_SECONDS, registry=registry
        )
        self.append_failures = Counter("headrace_log_append_failures", "Requests that Kafka did not acknowledge in time", registry=registry)
        self.first_token_seconds = Histogram(
            "headrace_time_to_first_token_seconds", "From the request to its first visible text", buckets=_SECONDS, registry=registry
        )
        self.tokens = Counter("headrace_streamed_tokens", "Tokens delivered to streams and waiting calls", registry=registry)

    def note_append(self, seconds: float, done: bool) -> None:
        """What an append to the log took."""
        self.append_seconds.observe(seconds)
        if not done:
            self.append_failures.inc()

    def render(self, seen: Seen) -> bytes:
        """The exposition text."""
        self._scrape.seen = seen
        return generate_latest(self._registry)
