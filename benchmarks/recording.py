"""When each token of a pass arrived, and what follows from it. The standard library alone, as every runner imports it."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from benchmarks.item import Item


@dataclass(frozen=True, kw_only=True, slots=True)
class Figures:
    """Of one pass of a workload whose requests were all there at its beginning. Times to the first token include waiting for a place."""

    requests: int
    prompt_tokens: int
    output_tokens: int
    seconds: float
    """Until the last token."""
    output_tokens_per_s: float
    total_tokens_per_s: float
    """Of prompts and outputs together."""
    ttft_p50_ms: float
    ttft_p95_ms: float
    itl_p50_ms: float | None
    """Of the times between two tokens of one stream, all streams in one pot; None where no stream has two."""
    itl_p95_ms: float | None
    prefill_tokens_per_s: float | None
    """Of a stream that is alone: its prompt over its time to the first token. None of several, which share their steps."""
    decode_tokens_per_s: float | None
    """Likewise: tokens behind the first over their time."""


class Recording:
    """Starts when it is made."""

    def __init__(self, items: Sequence[Item]) -> None:
        self._items = items
        self._arrivals: list[list[float]] = [[] for _ in items]
        self.start = time.perf_counter()

    def note(self, index: int, tokens: int) -> None:
        """So many more tokens of item `index` are there now."""
        self.note_at(index, [time.perf_counter()] * tokens)

    def note_at(self, index: int, times: Sequence[float]) -> None:
        """By time.perf_counter."""
        self._arrivals[index] += times

    def figures(self) -> Figures:
        """Raises ValueError for an item whose tokens are not as many as it asked for: it would be other work than its peers did."""
        for index, (item, times) in enumerate(zip(self._items, self._arrivals, strict=True)):
            if len(times) != item.max_tokens:
                raise ValueError(f"request {index} asked for {item.max_tokens} tokens and got {len(times)}")
        return figures(self._items, [[at - self.start for at in times] for times in self._arrivals])


def figures(items: Sequence[Item], arrivals: Sequence[Sequence[float]]) -> Figures:
    """`arrivals`: for each item, the seconds from the start at which its tokens came, in order, one at least."""
    prompts, outputs = sum(len(item.prompt_ids) for item in items), sum(map(len, arrivals))
    seconds = max(times[-1] for times in arrivals)
    firsts = [1_000 * times[0] for times in arrivals]
    gaps = [1_000 * (after - before) for times in arrivals for before, after in pairwise(times)]
    alone = arrivals[0] if len(arrivals) == 1 else None
    return Figures(
        requests=len(items),
        prompt_tokens=prompts,
        output_tokens=outputs,
        seconds=seconds,
        output_tokens_per_s=outputs / seconds,
        total_tokens_per_s=(prompts + outputs) / seconds,
        ttft_p50_ms=percentile(firsts, 50),
        ttft_p95_ms=percentile(firsts, 95),
        itl_p50_ms=percentile(gaps, 50) if gaps else None,
        itl_p95_ms=percentile(gaps, 95) if gaps else None,
        prefill_tokens_per_s=prompts / alone[0] if alone else None,
        decode_tokens_per_s=(len(alone) - 1) / (alone[-1] - alone[0]) if alone and alone[-1] > alone[0] else None,
    )


def percentile(values: Sequence[float], percent: float) -> float:
    """Linear between the two nearest ranks. `values` has one at least."""
    ordered = sorted(values)
    rank = (len(ordered) - 1) * percent / 100
    below = int(rank)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (rank - below) * (ordered[above] - ordered[below])
