"""The engine on mix64, beside its peers: python -m benchmarks.engine [--peer transformers] [--model SPEC] [-n 64]

Peers run in processes of their own, one after the other, never at once. All figures of one run belong together; absolute ones mean little
on a shared machine.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.workload import Item, mix
from headrace.model_folder import DEMO_MODEL
from headrace.request import Sampling
from headrace.settings import load_settings
from workers.convert import ensure_folder
from workers.engine.config import EngineConfig
from workers.engine.engine import PagedEngine
from workers.engine.planner import Plan
from workers.engine.runner import Computed, Runner
from workers.ports import EngineRequest


@dataclass
class Clock:
    """Time inside the runner, by kind of step. What a run takes beyond it is planning and bookkeeping."""

    prefill_s: float = 0.0
    decode_s: float = 0.0
    prefill_tokens: int = 0
    decode_tokens: int = 0

    def watch(self, runner: Runner) -> None:
        run = runner.run

        def timed(plan: Plan) -> Computed:
            start = time.perf_counter()
            result = run(plan)
            seconds = time.perf_counter() - start
            if plan.token_count > len(plan.rows):
                self.prefill_s += seconds
                self.prefill_tokens += plan.token_count
            else:
                self.decode_s += seconds
                self.decode_tokens += plan.token_count
            return result

        runner.run = timed  # type: ignore[method-assign]  # a stopwatch from outside, so that the engine carries none


def run_engine(engine: PagedEngine, items: Sequence[Item]) -> tuple[int, float]:
    """Output tokens and seconds of all items at once."""
    start = time.perf_counter()
    for i, item in enumerate(items):
        sampling = Sampling(max_tokens=item.max_tokens, temperature=0.0, seed=0, ignore_eos=True)
        engine.add(EngineRequest(request_id=str(i), prompt_ids=item.prompt_ids, sampling=sampling))
    unfinished, tokens = len(items), 0
    while unfinished:
        for delta in engine.step(0):
            tokens += len(delta.token_ids)
            unfinished -= delta.finish is not None
    return tokens, time.perf_counter() - start


def run_peer(name: str, folder: Path, n: int) -> float:
    """Tokens per second of a peer."""
    command = [sys.executable, "-m", f"benchmarks.peer_{name}", str(folder), str(n)]
    result = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return float(result.stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", choices=["transformers"], action="append", default=[])
    parser.add_argument("--model", default=DEMO_MODEL)
    parser.add_argument("-n", type=int, default=64, help="requests")
    arguments = parser.parse_args()

    folder = ensure_folder(arguments.model, load_settings().cache_dir)
    items = mix(folder, arguments.n)
    peers = {name: run_peer(name, folder, arguments.n) for name in arguments.peer}
    engine = PagedEngine(EngineConfig(model=folder))
    engine.warm_up()
    engine.open()
    run_engine(engine, items[:4])
    clock = Clock()
    clock.watch(engine._runner)
    tokens, seconds = run_engine(engine, items)

    print(f"headrace: {tokens} tokens, {seconds:.2f} s, {tokens / seconds:.1f} output tokens/s")
    for name, count, spent in (
        ("steps with prompts", clock.prefill_tokens, clock.prefill_s),
        ("decoding steps", clock.decode_tokens, clock.decode_s),
    ):
        print(f"  {name}: {count} tokens, {spent:.2f} s, {count / spent:.0f} tokens/s")
    overhead = seconds - clock.prefill_s - clock.decode_s
    print(f"  planning and bookkeeping: {overhead:.3f} s, {100 * overhead / seconds:.1f} %")
    for name, rate in peers.items():
        print(f"{name}: {rate:.1f} output tokens/s; headrace reaches {tokens / seconds / rate:.2f} times that")


if __name__ == "__main__":
    main()
