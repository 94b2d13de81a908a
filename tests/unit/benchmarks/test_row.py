"""What several runs of an engine come to, and its shape as JSON."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.item import Item
from benchmarks.recording import figures
from benchmarks.row import Heat, Row, row_of, with_ratios, write_rows

KEYS = {
    "workload", "engine", "dtype", "version", "peak_memory_mb", "ratio", "runs", "details", "missing", "failed",
    "requests", "prompt_tokens", "output_tokens", "seconds", "output_tokens_per_s", "total_tokens_per_s",
    "ttft_p50_ms", "ttft_p95_ms", "itl_p50_ms", "itl_p95_ms", "prefill_tokens_per_s", "decode_tokens_per_s",
}  # fmt: skip


def _line(seconds: float, *, memory: float | None = 100.0, details: Mapping[str, Any] | None = None) -> Mapping[str, Any]:
    """Of a stream of ten tokens in so many seconds, through JSON as a runner prints it."""
    told = figures([Item((1, 2), 10)], [[seconds * (i + 1) / 10 for i in range(10)]])
    line = {"version": "1.2", "figures": asdict(told), "peak_memory_mb": memory, "details": details}
    parsed: Mapping[str, Any] = json.loads(json.dumps(line))
    return parsed


def _row(*heats: Heat, engine: str = "vllm") -> Row:
    return row_of("single", engine, "fp32", heats)


def test_medians_are_of_each_figure() -> None:
    row = _row(Heat(_line(5.0)), Heat(_line(1.0, memory=300.0)), Heat(_line(2.0)))

    assert row.figures
    assert row.figures.output_tokens_per_s == 5.0
    assert row.figures.seconds == 2.0
    assert row.peak_memory_mb == 300.0
    assert row.runs == (2.0, 10.0, 5.0), "in the order they were run"


def test_counts_stay_whole_over_an_even_number_of_runs() -> None:
    row = _row(Heat(_line(1.0)), Heat(_line(2.0)))

    assert row.figures
    assert row.figures.output_tokens_per_s == 7.5
    assert json.dumps(row.figures.output_tokens) == "10"


def test_details_are_of_the_run_in_the_middle() -> None:
    row = _row(*(Heat(_line(seconds, details={"of": seconds})) for seconds in (5.0, 1.0, 2.0)))

    assert row.details == {"of": 2.0}


def test_a_failure_is_not_hidden_by_the_runs_that_went_well() -> None:
    row = _row(Heat(_line(1.0)), Heat(failed="ended with 1: boom"))

    assert (row.failed, row.figures) == ("ended with 1: boom", None)


def test_what_is_missing_is_named_and_has_no_figures() -> None:
    row = _row(Heat({"missing": "/usr/bin/python3 has no vLLM"}))

    assert (row.missing, row.failed, row.figures, row.peak_memory_mb) == ("/usr/bin/python3 has no vLLM", None, None, None)


def test_memory_that_no_system_told_is_not_made_up() -> None:
    assert _row(Heat(_line(1.0, memory=None))).peak_memory_mb is None


def test_ratios_are_to_the_first_that_ran() -> None:
    missing, first, second = _row(Heat({"missing": "x"})), _row(Heat(_line(1.0))), _row(Heat(_line(4.0)))

    assert [row.ratio for row in with_ratios([missing, first, second])] == [None, 1.0, 0.25]
    assert [row.ratio for row in with_ratios([missing])] == [None]


def test_every_row_has_every_key(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.json", [_row(Heat({"missing": "x"})), _row(Heat(failed="y")), _row(Heat(_line(1.0)))])

    missing, failed, ran = json.loads((tmp_path / "rows.json").read_text())
    assert missing.keys() == failed.keys() == ran.keys() == KEYS
    assert missing["output_tokens_per_s"] is failed["output_tokens_per_s"] is None
    assert ran["output_tokens_per_s"] == 10.0
