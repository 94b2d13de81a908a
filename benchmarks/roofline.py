"""The least time a run could take on this machine: for each of its steps the matrix products at that step's row count, as fast as they
were measured, and the cached keys and values at the measured speed of memory (after Williams, Waterman and Patterson, 2009).

The products of attention, norms, activations and sampling count as nothing. The linear layers are the engine's own, with whatever rounding
they do, all of a model's in turn, so that no weight stays in a cache between two calls as it would if one were timed alone.
"""

import time
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from workers.engine.linear import Linear
from workers.engine.planner import Row

ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
"""At which products are measured."""
TRIES, LEAST_S = 3, 0.2
"""So often at least, and so long in all. The fastest counts: it is a limit that is looked for."""
PROBED_BYTES = 256 * 2**20
"""Read for the speed of memory: more than any cache holds."""


@dataclass(frozen=True, slots=True)
class Step:
    """What one step of an engine computed, and how long its runner took."""

    tokens: int
    sampled: int
    """Rows of the output head."""
    kv_bytes: int
    prefill: bool
    """It computed some prompt's tokens. (Others may have decoded beside them.)"""
    seconds: float


@dataclass(frozen=True, slots=True)
class Curve:
    """Seconds by row count, as measured at some. Straight between two of them, the first one's below it, in proportion above the last."""

    points: tuple[tuple[int, float], ...]
    """Of rising row counts."""

    def at(self, rows: int) -> float:
        if rows == 0:
            return 0.0
        place = bisect_left(self.points, (rows, 0.0))
        if place == 0:
            return self.points[0][1]
        if place == len(self.points):
            last, seconds = self.points[-1]
            return seconds * rows / last
        (left, before), (right, after) = self.points[place - 1 : place + 1]
        return before + (after - before) * (rows - left) / (right - left)


@dataclass(frozen=True, slots=True)
class Limits:
    layers: Curve
    """All linear layers but the head."""
    head: Curve
    bandwidth: float
    """Bytes per second."""

    def seconds(self, step: Step) -> float:
        return self.layers.at(step.tokens) + self.head.at(step.sampled) + step.kv_bytes / self.bandwidth


def account(steps: Sequence[Step], limits: Limits, *, seconds: float, output_tokens: int) -> dict[str, Any]:
    """Where a run of `seconds` went, for JSON: in steps with prompts, in decoding steps, beside the runner; and how near it came to its
    limit, where a share of 1 is as fast as can be.
    """
    roofline_s = sum(map(limits.seconds, steps))
    beside_s = seconds - sum(step.seconds for step in steps)
    return {
        "prefill": _share([step for step in steps if step.prefill], limits),
        "decode": _share([step for step in steps if not step.prefill], limits),
        "bookkeeping_s": beside_s,
        "bookkeeping_share": beside_s / seconds,
        "roofline_share": roofline_s / seconds,
        "roofline_tokens_per_s": output_tokens / roofline_s,
        "bandwidth_gb_per_s": limits.bandwidth / 1e9,
        "layers_ms": {str(rows): 1_000 * at for rows, at in limits.layers.points},
        "head_ms": {str(rows): 1_000 * at for rows, at in limits.head.points},
    }


def _share(steps: Sequence[Step], limits: Limits) -> dict[str, Any] | None:
    """None of no steps: a single stream of one token decodes nothing."""
    if not steps:
        return None
    seconds, roofline_s = sum(step.seconds for step in steps), sum(map(limits.seconds, steps))
    return {
        "steps": len(steps),
        "tokens": sum(step.tokens for step in steps),
        "seconds": seconds,
        "roofline_s": roofline_s,
        "roofline_share": roofline_s / seconds,
    }


def kv_bytes(rows: Sequence[Row], layers: Sequence[tuple[int, int | None]]) -> int:
    """What a step must move of the cache: it reads what each row can see that lies there, once, and writes what the row adds.

    `layers`: for each the bytes of a token, keys and values, and its window, None for all.
    """
    total = 0
    for token_bytes, window in layers:
        for row in rows:
            seen = row.start if window is None else min(row.start, window - 1)
            total += token_bytes * (seen + len(row.token_ids))
    return total


def measure_products(products: Sequence[tuple[Linear, int]]) -> Curve:
    """`products`: linear layers with the widths of their inputs."""
    points = []
    with torch.inference_mode():
        for rows in ROWS:
            inputs = {width: torch.randn(rows, width) for _, width in products}
            points.append((rows, _fastest(_in_turn(products, inputs))))
    return Curve(tuple(points))


def measure_bandwidth() -> float:
    """Bytes per second at which torch's threads read memory."""
    memory = torch.ones(PROBED_BYTES // 4)
    return PROBED_BYTES / _fastest(lambda: memory.sum())


def _in_turn(products: Sequence[tuple[Linear, int]], inputs: dict[int, Tensor]) -> Callable[[], None]:
    def run() -> None:
        for linear, width in products:
            linear(inputs[width])

    return run


def _fastest(work: Callable[[], object]) -> float:
    work()
    seconds: list[float] = []
    while len(seconds) < TRIES or sum(seconds) < LEAST_S:
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return min(seconds)
