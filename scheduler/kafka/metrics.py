"""The pump's metrics: how far behind the log is read, what became of its records, and what went back to it."""

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from headrace.kafka.standing import Standing
from scheduler.kafka.recovery import Recovered
from scheduler.kafka.relay import Moved


class PumpMetrics(Collector):
    def __init__(self, standing: Callable[[], Standing | None]) -> None:
        """`standing` of the member of the group; None while there is none."""
        self.registry = CollectorRegistry()
        self._standing = standing
        self._records = Counter("headrace_pump_records_total", "Records of the log that are done.", ["outcome"], registry=self.registry)
        self._relayed = Counter("headrace_relay_records_total", "Records written to the log.", ["topic"], registry=self.registry)
        self._skipped = Counter("headrace_relay_skipped_total", "Ends that are not told: batch lines, purged jobs.", registry=self.registry)
        self._waiting = Gauge(
            "headrace_relay_waiting", "Ends that are not in the log yet; no more are counted than 1,000.", registry=self.registry
        )
        self._recovered = Counter(
            "headrace_recovery_jobs_total", "Jobs that a new store got from the log.", ["kind"], registry=self.registry
        )
        self.registry.register(self)

    def counted(self, outcome: str) -> None:
        self._records.labels(outcome).inc()

    def moved(self, moved: Moved) -> None:
        self._relayed.labels("results").inc(moved.results)
        self._relayed.labels("tokens").inc(moved.tokens)
        self._skipped.inc(moved.skipped)

    def behind(self, waiting: int) -> None:
        self._waiting.set(waiting)

    def recovered(self, found: Recovered) -> None:
        for kind in ("ended", "admitted", "known", "others"):
            self._recovered.labels(kind).inc(getattr(found, kind))

    def collect(self) -> Iterable[GaugeMetricFamily]:
        # Read once: a scrape runs in a thread of its own.
        standing = self._standing()
        up = standing is not None and standing.reachable
        yield GaugeMetricFamily("headrace_log_up", "1 if the broker answered lately and partitions are ours.", value=up)
        if standing is None:
            return
        yield GaugeMetricFamily("headrace_pump_in_flight", "Records read and not done.", value=standing.in_flight)
        yield GaugeMetricFamily("headrace_pump_paused_partitions", "Partitions held back.", value=len(standing.paused))
        lag = GaugeMetricFamily("headrace_pump_lag", "Records of a partition that are not read.", labels=["topic", "partition"])
        for partition, behind in sorted(standing.lag.items()):
            lag.add_metric([partition.topic, str(partition.number)], behind)
        yield lag
