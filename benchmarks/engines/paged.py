"""The paged engine on a workload, beside its limit: python -m benchmarks.engines.paged MODEL WORK --dtype fp32

On the CPU, as its peers. Reuse of prompts' prefixes is off, as everybody's.
"""

import os
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from benchmarks.engines.report import arguments_of, peak_memory_mb, report
from benchmarks.item import Item, read_items
from benchmarks.recording import Recording
from benchmarks.roofline import Limits, Step, account, kv_bytes, measure_bandwidth, measure_products
from headrace.request import Sampling
from workers.engine.config import EngineConfig
from workers.engine.engine import PagedEngine
from workers.engine.models.registry import read_shape
from workers.engine.planner import Plan
from workers.engine.runner import Computed, Runner
from workers.ports import EngineRequest


class Clock:
    """Time inside the runner, step by step. What a run takes beyond it is planning and bookkeeping."""

    def __init__(self, runner: Runner) -> None:
        """Watches `runner` from now on."""
        self._steps: list[tuple[Plan, float]] = []
        self._layers = _cache_layers(runner)
        run = runner.run

        def timed(plan: Plan) -> Computed:
            start = time.perf_counter()
            result = run(plan)
            self._steps.append((plan, time.perf_counter() - start))
            return result

        runner.run = timed  # type: ignore[method-assign]  # a stopwatch from outside, so that the engine carries none

    def steps(self) -> list[Step]:
        return [
            Step(
                tokens=plan.token_count,
                sampled=sum(row.sampling is not None for row in plan.rows),
                kv_bytes=kv_bytes(plan.rows, self._layers),
                prefill=plan.token_count > len(plan.rows),
                seconds=seconds,
            )
            for plan, seconds in self._steps
        ]


def run(engine: PagedEngine, items: Sequence[Item]) -> Recording:
    recording = Recording(items)
    for index, item in enumerate(items):
        sampling = Sampling(max_tokens=item.max_tokens, temperature=0.0, seed=0, ignore_eos=True)
        engine.add(EngineRequest(request_id=str(index), prompt_ids=item.prompt_ids, sampling=sampling))
    unfinished = len(items)
    while unfinished:
        for delta in engine.step(0):
            recording.note(int(delta.request_id), len(delta.token_ids))
            unfinished -= delta.finish is not None
    return recording


def measure_limits(runner: Runner, model: Path) -> Limits:
    shape, decoder = read_shape(model), runner._model
    products = []
    for layer in decoder._layers:
        products += [(layer._qkv, shape.hidden), (layer._out, shape.heads.query * shape.heads.dim)]
        products += [(layer._gate_up, shape.hidden), (layer._down, shape.inner)]
    return Limits(measure_products(products), measure_products([(decoder._head, shape.hidden)]), measure_bandwidth())


def _cache_layers(runner: Runner) -> list[tuple[int, int | None]]:
    """As `kv_bytes` wants them."""
    cache = runner._cache
    sizes = [(keys[0].nbytes + values[0].nbytes) // cache.block_size for keys, values in zip(cache.keys, cache.values, strict=True)]
    return [(size, kind.window) for size, kind in zip(sizes, runner._layers, strict=True)]


def main() -> None:
    parser = arguments_of("benchmarks.engines.paged", __doc__)
    parser.add_argument("--dtype", choices=["fp32", "int8"], required=True)
    arguments = parser.parse_args()
    items = read_items(arguments.work)
    engine = PagedEngine(EngineConfig(model=arguments.model, device="cpu", dtype=arguments.dtype, prefix_cache=False))
    engine.warm_up()
    engine.open()
    run(engine, items)
    clock = Clock(engine._runner)
    figures = run(engine, items).figures()
    memory = peak_memory_mb(os.getpid())
    limits = measure_limits(engine._runner, arguments.model)  # behind the pass: its own memory would count as the engine's
    report(
        figures,
        version=version("headrace"),
        peak_memory_mb=memory,
        details=account(clock.steps(), limits, seconds=figures.seconds, output_tokens=figures.output_tokens),
    )


if __name__ == "__main__":
    main()
