"""A line of the result: one engine on one workload, over all runs of it."""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from benchmarks.recording import Figures


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    workload: str
    engine: str
    dtype: str
    version: str | None = None
    figures: Figures | None = None
    """Medians, each over all runs for itself; None of an engine that did not run."""
    peak_memory_mb: float | None = None
    """The greatest of all runs."""
    ratio: float | None = None
    """Its output tokens/s over those of the first row of the workload that has any."""
    runs: tuple[float, ...] = ()
    """Output tokens/s of each."""
    details: Mapping[str, Any] | None = None
    """Of the run in the middle by output tokens/s."""
    missing: str | None = None
    """Why the engine did not take part."""
    failed: str | None = None
    """How it failed."""

    def as_json(self) -> dict[str, Any]:
        """Flat: every row has every key, null where there is nothing to say."""
        flat = asdict(self)
        measured = flat.pop("figures") or dict.fromkeys(field.name for field in fields(Figures))
        return flat | measured


@dataclass(frozen=True, slots=True)
class Heat:
    """What one run of a runner came to: its last line, or why there is none."""

    line: Mapping[str, Any] = field(default_factory=dict)
    failed: str | None = None

    def __str__(self) -> str:
        if self.failed:
            return "failed"
        return "left out" if "missing" in self.line else f"{_speed(self.line):.1f} output tokens/s"


def row_of(workload: str, engine: str, dtype: str, heats: Sequence[Heat]) -> Row:
    """One failure is enough to fail: a median over what was left would be over the luckier runs."""
    row = Row(workload=workload, engine=engine, dtype=dtype)
    failed = next((heat.failed for heat in heats if heat.failed), None)
    missing = next((heat.line["missing"] for heat in heats if "missing" in heat.line), None)
    if failed or missing:
        return replace(row, failed=failed, missing=None if failed else missing)
    lines = sorted((heat.line for heat in heats), key=_speed)
    memory = [line["peak_memory_mb"] for line in lines if line["peak_memory_mb"] is not None]
    return replace(
        row,
        version=lines[0]["version"],
        figures=_medians([line["figures"] for line in lines]),
        peak_memory_mb=max(memory, default=None),
        runs=tuple(_speed(heat.line) for heat in heats),
        details=lines[len(lines) // 2]["details"],
    )


def with_ratios(rows: Sequence[Row]) -> list[Row]:
    """`rows`: of one workload."""
    first = next((row.figures.output_tokens_per_s for row in rows if row.figures), None)
    return [replace(row, ratio=row.figures.output_tokens_per_s / first) if row.figures and first else row for row in rows]


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """In place of those of the run before, whole or not at all."""
    unfinished = path.with_name(path.name + ".new")
    unfinished.write_text(json.dumps([row.as_json() for row in rows], indent=2) + "\n")
    unfinished.replace(path)


def _speed(line: Mapping[str, Any]) -> float:
    return float(line["figures"]["output_tokens_per_s"])


def _medians(lines: Sequence[Mapping[str, float | None]]) -> Figures:
    columns = {name: [value for line in lines if (value := line[name]) is not None] for name in lines[0]}
    return Figures(**{name: _median(values) for name, values in columns.items()})  # type: ignore[arg-type]  # None only where Figures may have it


def _median(values: Sequence[float]) -> float | None:
    """A count is the same in all runs and stays a whole number."""
    if not values:
        return None
    return statistics.median_low(values) if isinstance(values[0], int) else statistics.median(values)
