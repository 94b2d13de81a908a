"""What eight bits and a cache in half precision cost a model, on the text by which `auto` decides:

    python -m benchmarks.quality --model smollm2-135m-instruct

Perplexity, by how much it is above that in fp32 and the standard error of that, and the share of places at which the likeliest token is
the same.
"""

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple

from rich.console import Console
from rich.table import Table

from benchmarks.arguments import parser_of, refusing
from headrace.errors import HeadraceError, ModelUnavailable
from headrace.logprobs import Logprobs
from headrace.model_folder import DEMO_MODEL
from headrace.settings import load_settings
from workers.convert import ensure_folder
from workers.engine.config import EngineConfig
from workers.engine.next_token import UNLIKELY
from workers.engine.precision import read_text

_KINDS: Sequence[tuple[Literal["fp32", "int8"], Literal["fp32", "fp16"]]] = (
    ("fp32", "fp32"),
    ("fp32", "fp16"),
    ("int8", "fp32"),
    ("int8", "fp16"),
)
"""Of weights and cache; all are compared to the first."""


class Cost(NamedTuple):
    perplexity: float
    worse: float
    """By this share it is above the first."""
    error: float
    """Of `worse`: the standard error over the places of the text."""
    same: float
    """Share of places with the same likeliest token as the first."""


def cost(first: Sequence[Logprobs], told: Sequence[Logprobs]) -> Cost:
    """Both of the same places, two at least.

    The logarithm of a ratio of perplexities is the mean of the differences of log-probabilities, known far better than either mean.
    """
    lost = [one.chosen - other.chosen for one, other in zip(first, told, strict=True)]
    return Cost(
        perplexity=math.exp(-statistics.fmean(other.chosen for other in told)),
        worse=math.expm1(statistics.fmean(lost)),
        error=statistics.stdev(lost) / math.sqrt(len(lost)),
        same=statistics.fmean(one.top[0][0] == other.top[0][0] for one, other in zip(first, told, strict=True)),
    )


def measure(config: EngineConfig) -> Iterator[tuple[str, str, Cost]]:
    """Types of weights and cache with their cost. Raises ModelUnavailable if the model gives some token of the text no probability."""
    first: Sequence[Logprobs] | None = None
    for dtype, kv_dtype in _KINDS:
        told = read_text(replace(config, dtype=dtype, kv_dtype=kv_dtype), top=1)
        if min(one.chosen for one in told) <= UNLIKELY:
            raise ModelUnavailable(f"in {dtype} with a cache in {kv_dtype} some token of the text has no probability")
        first = first or told
        yield dtype, kv_dtype, cost(first, told)


def main() -> None:
    parser = parser_of("benchmarks.quality", __doc__)
    parser.add_argument(
        "--model", default=DEMO_MODEL, help="a Hugging Face folder, a .gguf file, or the demo model's name, which is the default"
    )
    arguments = parser.parse_args()
    table = Table()
    for heading in ("weights", "cache", "perplexity", "more than the first", "same likeliest"):
        table.add_column(heading, justify="left" if heading in ("weights", "cache") else "right")
    with refusing(parser, HeadraceError):
        folder: Path = ensure_folder(arguments.model, load_settings().cache_dir)
        for dtype, kv_dtype, its in measure(EngineConfig(model=folder, device="cpu")):
            worse = f"{100 * its.worse:+.3f} % ± {100 * its.error:.3f}"
            table.add_row(dtype, kv_dtype, f"{its.perplexity:.3f}", worse, f"{100 * its.same:.1f} %")
    Console().print(table)


if __name__ == "__main__":
    main()
