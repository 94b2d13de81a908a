"""Where one step's time goes: python -m benchmarks.step --dtype int8 --rows 64 --context 230

A step in which every sequence decodes one token, many times over; of each part the median, summed over the layers.
"""

import argparse
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from benchmarks.arguments import count, parser_of, refusing
from benchmarks.table import print_parts
from headrace.errors import HeadraceError
from headrace.model_folder import DEMO_MODEL
from headrace.request import Sampling
from headrace.settings import load_settings
from workers.convert import ensure_folder
from workers.engine import runner as runner_module
from workers.engine.attention import Attention, Batch, Rotation
from workers.engine.config import EngineConfig
from workers.engine.engine import PagedEngine
from workers.ports import EngineRequest

BUDGET = 512
_PARTS = {
    "_before_attention": "norms",
    "_before_mlp": "norms",
    "_qkv": "products",
    "_out": "products",
    "_gate_up": "products",
    "_down": "products",
    "_activation": "activation",
}


class Stopwatch:
    """Adds up, step by step, the time inside functions that were wrapped."""

    def __init__(self) -> None:
        self._now: dict[str, float] = defaultdict(float)
        self._steps: dict[str, list[float]] = defaultdict(list)

    def wrap(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **named: Any) -> Any:
            start = time.perf_counter()
            result = function(*arguments, **named)
            self._now[part] += time.perf_counter() - start
            return result

        return timed

    def step(self, seconds: float) -> None:
        """A step is over; what no part accounts for is the rest of it."""
        self._now["rest: residuals, embedding, planning, text"] = seconds - sum(self._now.values())
        for part, spent in self._now.items():
            self._steps[part].append(spent)
        self._now.clear()

    def medians(self) -> dict[str, float]:
        return {part: statistics.median(spent) for part, spent in self._steps.items()}


class WatchedAttention:
    """See `workers.engine.attention.Attention`."""

    def __init__(self, attention: Attention, stopwatch: Stopwatch) -> None:
        self._begin = stopwatch.wrap("attention", attention.begin)
        self._attend = stopwatch.wrap("attention", attention)

    def begin(self, batch: Batch, rotations: Sequence[Rotation]) -> None:
        self._begin(batch, rotations)

    def __call__(self, layer: int, qkv: Tensor) -> Tensor:
        result: Tensor = self._attend(layer, qkv)
        return result


def watch(engine: PagedEngine, stopwatch: Stopwatch) -> None:
    runner = engine._runner
    for layer in runner._model._layers:
        for name, part in _PARTS.items():
            setattr(layer, name, stopwatch.wrap(part, getattr(layer, name)))
    runner._model._head = stopwatch.wrap("product of the head", runner._model._head)
    runner._attention = WatchedAttention(runner._attention, stopwatch)
    names = vars(runner_module)
    names["next_tokens"] = stopwatch.wrap("choosing tokens", names["next_tokens"])


def _rows(text: str) -> int:
    rows = count(text)
    if rows >= BUDGET:
        raise argparse.ArgumentTypeError(f"must be less than {BUDGET}, the tokens of a step, got {rows}")
    return rows


def main() -> None:
    parser = parser_of("benchmarks.step", __doc__)
    parser.add_argument("--model", default=DEMO_MODEL)
    parser.add_argument("--dtype", choices=["fp32", "int8"], default="fp32")
    parser.add_argument("--kv-dtype", choices=["auto", "fp16", "fp32"], default="auto")
    parser.add_argument("--rows", type=_rows, default=64, metavar="N", help=f"less than {BUDGET}; default: 64")
    parser.add_argument("--context", type=count, default=230, metavar="N", help="tokens of each before the first step; default: 230")
    parser.add_argument("--steps", type=count, default=30, metavar="N", help="default: 30")
    given = parser.parse_args()
    with refusing(parser, HeadraceError):
        show_step(given, ensure_folder(given.model, load_settings().cache_dir))


def show_step(given: argparse.Namespace, folder: Path) -> None:
    """Raises HeadraceError."""
    engine = PagedEngine(
        EngineConfig(
            model=folder,
            device="cpu",
            dtype=given.dtype,
            kv_dtype=given.kv_dtype,
            max_running=given.rows,
            token_budget=BUDGET,
            prefix_cache=False,
        )
    )
    engine.warm_up()
    engine.open()
    prefill = given.rows * given.context // (BUDGET - given.rows) + given.rows  # at most; some rows decode all that time
    sampling = Sampling(max_tokens=given.steps + prefill, temperature=0.0, seed=0, ignore_eos=True)
    for row in range(given.rows):
        engine.add(EngineRequest(request_id=str(row), prompt_ids=tuple(range(100, 100 + given.context)), sampling=sampling))
    while sum(1 for _ in engine.step(0)) < given.rows:
        """Prompts first."""
    stopwatch = Stopwatch()
    watch(engine, stopwatch)
    for _ in range(given.steps):
        start = time.perf_counter()
        engine.step(0)
        stopwatch.step(time.perf_counter() - start)
    print_parts(f"a step of {given.rows} rows behind {given.context} tokens, {given.dtype}, KV {given.kv_dtype}", stopwatch.medians())


if __name__ == "__main__":
    main()
