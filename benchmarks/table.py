"""The result, for people: as much of it as 80 columns hold. The JSON has all."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.row import Row

_COLUMNS = {
    "output_tokens_per_s": "output\ntok/s",
    "ttft_p50_ms": "first\np50 ms",
    "itl_p50_ms": "next\np50 ms",
    "itl_p95_ms": "next\np95 ms",
    "peak_memory_mb": "memory\nMB",
}
"""Times to the first token and between two."""
_ALONE = {
    "prefill_tokens_per_s": "prefill\ntok/s",
    "decode_tokens_per_s": "decode\ntok/s",
    "output_tokens_per_s": "output\ntok/s",
    "peak_memory_mb": "memory\nMB",
}
"""Of a single stream, whose times say the same as these."""


def table_of(rows: Sequence[Row]) -> Table:
    """`rows`: of one workload."""
    lines = [row.as_json() for row in rows]
    columns = _COLUMNS
    if any(line["prefill_tokens_per_s"] for line in lines):
        columns = _ALONE
    ran = next((line for line in lines if line["requests"]), None)
    size = f": {ran['requests']:g} requests, {ran['prompt_tokens']:g} prompt and {ran['output_tokens']:g} output tokens" if ran else ""
    table = Table(title=f"{rows[0].workload}{size}", title_justify="left")
    table.add_column("engine", no_wrap=True)
    table.add_column("type", no_wrap=True)
    for title in columns.values():
        table.add_column(title, justify="right")
    table.add_column("ratio\nto 1st", justify="right")
    for line in lines:
        if why := _why_not(line):
            table.add_row(line["engine"], line["dtype"], why)
        else:
            ratio = "–" if line["ratio"] is None else f"{line['ratio']:.2f}"
            table.add_row(line["engine"], line["dtype"], *(_number(line[name]) for name in columns), ratio)
    return table


def notes_of(row: Row) -> list[str]:
    """Where the time of our own engine went, a line each; nothing of the others."""
    details = row.details
    if details is None:
        return []
    lines = [f"{row.engine}:"]
    for name, kind in (("steps with prompts", details["prefill"]), ("decoding steps", details["decode"])):
        if kind:
            lines.append(f"  {name}: {_kind(kind)}")
    lines.append(f"  planning and bookkeeping: {details['bookkeeping_s']:.3f} s, {100 * details['bookkeeping_share']:.1f} % of the run")
    share, limit, bandwidth = 100 * details["roofline_share"], details["roofline_tokens_per_s"], details["bandwidth_gb_per_s"]
    lines.append(f"  all of it: {share:.0f} % of a roofline of {limit:.0f} output tok/s, memory read at {bandwidth:.0f} GB/s")
    return lines


def _kind(kind: Mapping[str, Any]) -> str:
    return (
        f"{kind['steps']}, {kind['tokens']} tokens, {kind['seconds']:.2f} s, {kind['tokens'] / kind['seconds']:.0f} tok/s, "
        f"{100 * kind['roofline_share']:.0f} % of their roofline"
    )


def _why_not(line: Mapping[str, Any]) -> str | None:
    if line["failed"]:
        return "failed"
    return "left out" if line["missing"] else None


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:,.1f}" if value < 1_000 else f"{value:,.0f}"


def print_parts(title: str, seconds: Mapping[str, float]) -> None:
    """Parts of a whole, the longest first."""
    table = Table(title=title)
    for heading in ("part", "ms", "share"):
        table.add_column(heading, justify="left" if heading == "part" else "right")
    whole = sum(seconds.values())
    for part, spent in sorted(seconds.items(), key=lambda item: -item[1]):
        table.add_row(part, f"{1_000 * spent:.1f}", f"{100 * spent / whole:.0f} %")
    table.add_row("all", f"{1_000 * whole:.1f}", "")
    Console().print(table)
