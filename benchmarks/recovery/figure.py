"""One measured quantity, and its row in the table."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

HEAD = "| what | asked | n | p50 | p99, or longest |\n|---|---|---|---|---|"
ENOUGH_FOR_P99 = 100


@dataclass(frozen=True, slots=True)
class Figure:
    what: str
    asked: str
    seconds: Sequence[float]

    def row(self) -> str:
        ordered = sorted(self.seconds)
        n = len(ordered)
        worst = f"{ordered[int(0.99 * n)]:.2f} s" if n >= ENOUGH_FOR_P99 else f"longest {ordered[-1]:.2f} s"
        return f"| {self.what} | {self.asked} | {n} | {statistics.median(ordered):.2f} s | {worst} |"
