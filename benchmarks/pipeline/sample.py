"""What was measured, and the table of it."""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

BASE = "redis"
"""What others are compared with, if it was measured."""


@dataclass(frozen=True, slots=True)
class Accepting:
    seconds: float
    latencies: Sequence[float]

    @property
    def rate(self) -> float:
        """Requests per second."""
        return len(self.latencies) / self.seconds


@dataclass(slots=True)
class Samples:
    """Of one queue: a run per round for each number of clients, and the times to a first token of all rounds."""

    accepting: dict[int, list[Accepting]] = field(default_factory=dict)
    first_tokens: list[float] = field(default_factory=list)

    def figures(self) -> dict[str, float]:
        """By name: requests per second, the median of the rounds; milliseconds over all of them."""
        found: dict[str, float] = {}
        for clients, runs in self.accepting.items():
            found[f"accepted/s, {clients} clients"] = statistics.median(run.rate for run in runs)
            found |= _spread(f"ms to the 202, {clients} clients", [taken for run in runs for taken in run.latencies])
        return found | _spread("ms to the first token", self.first_tokens)


def _spread(name: str, seconds: Sequence[float]) -> dict[str, float]:
    ordered = sorted(1_000 * taken for taken in seconds)
    return {f"{name}, p50": statistics.median(ordered), f"{name}, p95": ordered[int(0.95 * len(ordered))]}


def table(figures: Mapping[str, Mapping[str, float]]) -> Iterator[str]:
    """`figures` by queue."""
    queues = list(figures)
    others = [queue for queue in queues if queue != BASE and BASE in queues]
    yield "| | " + " | ".join([*queues, *(f"{other} / {BASE}" for other in others)]) + " |"
    yield "|---|" + "---|" * (len(queues) + len(others))
    for name in figures[queues[0]]:
        cells = [f"{figures[queue][name]:.{0 if figures[queue][name] >= 100 else 1}f}" for queue in queues]
        ratios = [f"{figures[other][name] / figures[BASE][name]:.2f}" for other in others]
        yield f"| {name} | " + " | ".join([*cells, *ratios]) + " |"
