"""The engine beside its peers, on the same weights, prompts and output lengths, greedy:

    python -m benchmarks.engine --json engine.json [--workload mix64] [--engines paged-fp32,transformers,...] [--runs 3]
        [--vllm-python PYTHON] [--llama-server PROGRAM] [--gguf-f32 FILE] [--gguf-q8 FILE]

Each engine runs in a process of its own, one after the other, never at once, and does the whole workload twice in it: the second time
counts. With several runs all engines take turns, and the figures are medians. A peer that is not installed is named as such. All figures
of one call belong together; absolute ones mean little on a shared machine. Everybody's prefix cache is off.

Workloads: `mix64` and `mix256`, so many chat requests at once; `single`, one stream of 512 prompt tokens. `mix64,mix256` runs both.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from benchmarks.entrant import ENGINES, Entrant, entrant
from benchmarks.item import write_items
from benchmarks.row import Heat, Row, row_of, with_ratios, write_rows
from benchmarks.table import notes_of, table_of
from benchmarks.workload import WORKLOADS
from headrace.model_folder import DEMO_MODEL
from headrace.settings import load_settings
from workers.convert import ensure_folder

ROOT = Path(__file__).parents[1]
LIMIT_S = 3_600.0
"""No runner takes as long unless it hangs."""
SAID = 2_000
"""Characters of a failed runner's last words."""


def run_once(entrant: Entrant, model: Path, work: Path) -> Heat:
    """One process of a runner. Whatever it started has ended with it."""
    if entrant.missing:
        return Heat({"missing": entrant.missing})
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    with tempfile.TemporaryFile("w+", errors="replace") as errors:
        argv = entrant.argv(model, work)
        with subprocess.Popen(argv, env=environ, stdout=subprocess.PIPE, stderr=errors, text=True, start_new_session=True) as runner:
            try:
                out, _ = runner.communicate(timeout=LIMIT_S)
            except subprocess.TimeoutExpired:
                return Heat(failed=f"not done after {LIMIT_S:.0f} s")
            finally:
                # One that was given up leaves a server or workers behind, which would slow down whoever is next.
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(runner.pid, signal.SIGKILL)
        if runner.returncode:
            errors.seek(0)
            return Heat(failed=f"ended with {runner.returncode}: {errors.read()[-SAID:].strip()}")
    return _told(out)


def _told(out: str) -> Heat:
    """The runner's line, among whatever libraries write to the standard output, before it and, as vLLM does when it ends, behind it."""
    for line in reversed(out.splitlines()):
        with contextlib.suppress(ValueError):
            told = json.loads(line)
            if isinstance(told, dict):
                return Heat(told)
    return Heat(failed=f"ended without figures: {out[-SAID:].strip()}")


def compare(workload: str, entrants: Sequence[Entrant], model: Path, options: argparse.Namespace, console: Console) -> list[Row]:
    """Run by run, all engines in each: what else the machine does changes over minutes, and should meet all of them."""
    heats: dict[str, list[Heat]] = {entrant.engine: [] for entrant in entrants}
    with tempfile.TemporaryDirectory(prefix="headrace-benchmark-") as scratch:
        work = Path(scratch) / "work.json"
        write_items(work, WORKLOADS[workload](model)[: options.n])
        for run in range(options.runs):
            for entrant in entrants:
                heat = run_once(entrant, model, work)
                heats[entrant.engine].append(heat)
                console.print(f"{workload}, run {run + 1} of {options.runs}: {entrant.engine}: {heat}", style="dim", highlight=False)
    return with_ratios([row_of(workload, entrant.engine, entrant.dtype, heats[entrant.engine]) for entrant in entrants])


def show(rows: Sequence[Row], console: Console) -> None:
    console.print(table_of(rows))
    for row in rows:
        if row.missing:
            console.print(f"{row.engine} is not installed: {row.missing}", markup=False, highlight=False)
        if row.failed:
            console.print(f"{row.engine} failed: {row.failed}", markup=False, highlight=False)
        for line in notes_of(row):
            console.print(line, markup=False, highlight=False)


def _list_of(allowed: Sequence[str], what: str, text: str) -> list[str]:
    names = text.split(",")
    for name in names:
        if name not in allowed:
            raise argparse.ArgumentTypeError(f"unknown {what} {name!r}; there are {', '.join(allowed)}")
    return names


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=DEMO_MODEL)
    parser.add_argument("--workload", type=lambda text: _list_of(tuple(WORKLOADS), "workload", text), default=["mix64"])
    parser.add_argument("--engines", type=lambda text: _list_of(ENGINES, "engine", text), default=list(ENGINES))
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("-n", type=int, help="only so many of the workload's requests, for a try")
    parser.add_argument("--json", type=Path, help="where the rows go")
    parser.add_argument("--vllm-python", help="the python of an environment that has vLLM")
    parser.add_argument("--llama-server", default="llama-server", help="llama.cpp's server")
    parser.add_argument("--gguf-f32", type=Path, help="the model for it in fp32")
    parser.add_argument("--gguf-q8", type=Path, help="the same at Q8_0")
    return parser.parse_args()


def main() -> int:
    options, console = _options(), Console()
    model = ensure_folder(options.model, load_settings().cache_dir)
    entrants = [entrant(name, options) for name in options.engines]
    rows: list[Row] = []
    for workload in options.workload:
        compared = compare(workload, entrants, model, options, console)
        show(compared, console)
        rows += compared
        if options.json:
            write_rows(options.json, rows)
    return 1 if any(row.failed for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
