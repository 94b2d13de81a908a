"""What a runner is called with and what it prints: one line of JSON. The standard library alone, as every runner imports it."""

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.arguments import parser_of
from benchmarks.recording import Figures


def arguments_of(module: str, description: str | None) -> argparse.ArgumentParser:
    """A parser with what every runner takes: the model's folder and the workload's file (`benchmarks.item`)."""
    parser = parser_of(module, description)
    parser.add_argument("model", type=Path)
    parser.add_argument("work", type=Path)
    return parser


def report(figures: Figures, *, version: str, peak_memory_mb: float | None, details: dict[str, Any] | None = None) -> None:
    line = {"version": version, "figures": asdict(figures), "peak_memory_mb": peak_memory_mb, "details": details}
    print(json.dumps(line), flush=True)


def report_missing(reason: str) -> None:
    """The engine is not there. That is no failure: the table says so."""
    print(json.dumps({"missing": reason}), flush=True)


def peak_memory_mb(*pids: int) -> float | None:
    """The largest resident memory that each process ever had, summed. Asked for at the end: nothing is sampled while the clock runs.

    What processes share is counted for each. None where the system does not tell (it is Linux that does).
    """
    total = 0.0
    for pid in pids:
        try:
            status = Path(f"/proc/{pid}/status").read_text()
        except OSError:
            return None
        total += next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:")) / 1024
    return total
