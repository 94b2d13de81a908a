"""Workers at this scrape, by their last reports.

A series is one process's: it ends with it, and no more than live ones are shown. Summed over workers its counters would fall whenever one
of them dies, which readers of counters take for a new beginning.
"""

from collections.abc import Callable, Iterable, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from headrace.worker_status import WorkerStatus

_Read = Callable[[WorkerStatus], float | None]
"""None: the worker does not say."""

_LABELS = ["model", "worker"]
_SHOWN: Sequence[tuple[type[GaugeMetricFamily] | type[CounterMetricFamily], str, str, _Read]] = (
    (GaugeMetricFamily, "headrace_worker_kv_tokens", "Tokens the KV cache holds", lambda worker: worker.kv_tokens_total),
    (GaugeMetricFamily, "headrace_worker_kv_tokens_used", "Tokens in it that running requests need", lambda worker: worker.kv_tokens_used),
    (GaugeMetricFamily, "headrace_worker_waiting", "Sequences taken that do not run now", lambda worker: worker.waiting),
    (GaugeMetricFamily, "headrace_worker_step_seconds", "Median of the last 64 steps", lambda worker: worker.step_s),
    (CounterMetricFamily, "headrace_worker_preemptions", "Sequences displaced, to be computed again", lambda worker: worker.preemptions),
    (
        CounterMetricFamily,
        "headrace_worker_shrunk_steps",
        "Steps that lacked memory and became smaller",
        lambda worker: worker.shrunk_steps,
    ),
)


def of_workers(workers: Sequence[WorkerStatus]) -> Iterable[Metric]:
    """Standbys have nothing to show."""
    for family, name, said, read in _SHOWN:
        metric = family(name, said, labels=_LABELS)
        for worker in workers:
            value = read(worker)
            if value is not None and not worker.standby:
                metric.add_metric([worker.model, worker.worker], value)
        yield metric
