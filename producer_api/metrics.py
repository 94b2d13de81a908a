"""What /metrics shows."""

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from headrace.ports import Load

_SECONDS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class ScrapeGauges(Collector):
    """Queue and disk at this scrape. Of a queue that does not answer only `headrace_queue_up 0` is shown: old values would be a lie."""

    load: Load | None = None
    workers: int | None = None
    files_free: int | None = None

    def collect(self) -> Iterable[GaugeMetricFamily]:
        load = self.load
        if self.workers is not None:
            yield GaugeMetricFamily("headrace_workers", "Engine processes that report", value=self.workers)
        if self.files_free is not None:
            yield GaugeMetricFamily("headrace_files_free_bytes", "Room left for files and batches", value=self.files_free)
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
        self.first_token_seconds = Histogram(
            "headrace_time_to_first_token_seconds", "From the request to its first visible text", buckets=_SECONDS, registry=registry
        )
        self.tokens = Counter("headrace_streamed_tokens", "Tokens delivered to streams and waiting calls", registry=registry)

    def render(self, load: Load | None, workers: int | None, files_free: int | None) -> bytes:
        """The exposition text; `load` and `workers`, their number, are None if the queue did not answer, `files_free`, in bytes, if the
        disk did not."""
        self._scrape.load, self._scrape.workers, self._scrape.files_free = load, workers, files_free
        return generate_latest(self._registry)
