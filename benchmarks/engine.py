"""The engine beside its peers, on the same weights, prompts and output lengths, greedy:

    python -m benchmarks.engine --workload mix64,mix256 --json engine.json

Each engine runs in a process of its own, one after the other, never at once, and does the whole workload twice in it: the second time
counts. With several runs all engines take turns, and the figures are medians. A peer that is not there is left out by name. All figures of
one call belong together; absolute ones mean little on a shared machine. Everybody's prefix cache is off. The table is a part of the JSON,
which is written anew after each run.

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
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from rich.console import Console

from benchmarks.arguments import count, new_file, parser_of, refusing
from benchmarks.entrant import ENGINES, Entrant, entrant
from benchmarks.item import write_items
from benchmarks.row import Heat, Row, row_of, with_ratios, write_rows
from benchmarks.table import notes_of, table_of
from benchmarks.workload import WORKLOADS
from headrace.errors import HeadraceError
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


@contextlib.contextmanager
def stopping_cleanly() -> Iterator[None]:
    """A signal that ends this process ends its runner too, which is in a session of its own, and takes its scratch folder along."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def end(number: int, _frame: object) -> None:
        for other in numbers:
            signal.signal(other, signal.SIG_IGN)  # a second one would cut the cleaning short
        sys.exit(128 + number)

    before = {number: signal.signal(number, end) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def compare(
    workload: str, entrants: Sequence[Entrant], model: Path, options: argparse.Namespace, say: Callable[[str], None]
) -> Iterator[list[Row]]:
    """The rows so far, after every run of an engine.

    Run by run, all engines in each: what else the machine does changes over minutes, and should meet all of them.
    """
    heats: dict[str, list[Heat]] = {entrant.engine: [] for entrant in entrants}
    with tempfile.TemporaryDirectory(prefix="headrace-benchmark-") as scratch:
        work = Path(scratch) / "work.json"
        write_items(work, WORKLOADS[workload](model)[: options.n])
        for run in range(options.runs):
            for entrant in entrants:
                where = f"{workload}, run {run + 1} of {options.runs}: {entrant.engine}"
                if entrant.missing is None:
                    say(f"{where} runs …")
                heat = run_once(entrant, model, work)
                heats[entrant.engine].append(heat)
                say(f"{where}: {heat}")
                ran = [entrant for entrant in entrants if heats[entrant.engine]]
                yield with_ratios([row_of(workload, entrant.engine, entrant.dtype, heats[entrant.engine]) for entrant in ran])


def show(rows: Sequence[Row], console: Console) -> None:
    console.print(table_of(rows))
    for row in rows:
        if row.missing:
            console.print(f"{row.engine} is left out: {row.missing}", markup=False, highlight=False)
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


def _parser() -> argparse.ArgumentParser:
    parser = parser_of("benchmarks.engine", __doc__)
    parser.add_argument(
        "--model", default=DEMO_MODEL, help="a Hugging Face folder, a .gguf file, or the demo model's name, which is the default"
    )
    parser.add_argument(
        "--workload",
        type=lambda text: _list_of(tuple(WORKLOADS), "workload", text),
        default=["mix64"],
        metavar="NAMES",
        help=f"comma-separated, of {', '.join(WORKLOADS)}; default: mix64",
    )
    parser.add_argument(
        "--engines",
        type=lambda text: _list_of(ENGINES, "engine", text),
        default=list(ENGINES),
        metavar="NAMES",
        help=f"comma-separated, of {', '.join(ENGINES)}; default: all",
    )
    parser.add_argument("--runs", type=count, default=1, metavar="N", help="default: 1")
    parser.add_argument("-n", type=count, metavar="N", help="only so many of the workload's requests, for a try")
    parser.add_argument("--json", type=new_file, metavar="FILE", help="where the rows go")
    parser.add_argument("--vllm-python", metavar="PYTHON", help="the python of an environment that has vLLM")
    parser.add_argument("--llama-server", default="llama-server", metavar="PROGRAM", help="llama.cpp's server; default: the one on PATH")
    parser.add_argument("--gguf-f32", type=Path, metavar="FILE", help="the model for it in fp32")
    parser.add_argument("--gguf-q8", type=Path, metavar="FILE", help="the same at Q8_0")
    return parser


def main() -> int:
    parser, console = _parser(), Console()
    options = parser.parse_args()
    with refusing(parser, HeadraceError):
        model = ensure_folder(options.model, load_settings().cache_dir)
    entrants = [entrant(name, options) for name in options.engines]
    done: list[Row] = []
    with stopping_cleanly():
        for workload in options.workload:
            rows: list[Row] = []
            for rows in compare(workload, entrants, model, options, lambda line: console.print(line, style="dim", highlight=False)):
                if options.json:
                    write_rows(options.json, [*done, *rows])
            show(rows, console)
            done += rows
    return 1 if any(row.failed for row in done) else 0


if __name__ == "__main__":
    sys.exit(main())
