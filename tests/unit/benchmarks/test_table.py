"""What people are shown."""

from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console

from benchmarks.engine import show
from benchmarks.entrant import ENGINES
from benchmarks.item import Item
from benchmarks.recording import Figures, figures
from benchmarks.roofline import Curve, Limits, Step, account
from benchmarks.row import Row

LIMITS = Limits(layers=Curve(((1, 0.5),)), head=Curve(((1, 0.0),)), bandwidth=1e9)
DETAILS = account(
    [Step(tokens=1, sampled=1, kv_bytes=0, prefill=prefill, seconds=0.8) for prefill in (True, False)],
    LIMITS,
    seconds=2.0,
    output_tokens=20,
)


def _figures(streams: int = 2) -> Figures:
    return figures([Item((1, 2, 3), 10)] * streams, [[0.2 * (i + 1) for i in range(10)]] * streams)


def _shown(*rows: Row, width: int = 160) -> str:
    console = Console(file=StringIO(), width=width)
    show(rows, console)
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def test_a_row_with_figures() -> None:
    text = _shown(Row(workload="mix64", engine="vllm", dtype="fp32", figures=_figures(), peak_memory_mb=1_234.5, ratio=0.5))

    assert "mix64: 2 requests, 6 prompt and 20 output tokens" in text
    assert [cell.strip() for cell in text.splitlines()[-2].split("│")[1:-1]] == [
        "vllm", "fp32", "10.0", "200.0", "200.0", "200.0", "1,234", "0.50",
    ]  # fmt: skip


def test_peers_that_are_missing_or_failed_are_named_with_the_reason() -> None:
    text = _shown(
        Row(workload="mix64", engine="vllm", dtype="fp32", missing="--vllm-python is not given"),
        Row(workload="mix64", engine="llamacpp-q8", dtype="q8_0", failed="ended with 1: [boom]"),
    )

    assert "vllm is left out: --vllm-python is not given" in text
    assert "llamacpp-q8 failed: ended with 1: [boom]" in text


def test_a_single_stream_shows_prefill_and_decode_apart() -> None:
    text = _shown(Row(workload="single", engine="vllm", dtype="fp32", figures=_figures(1), ratio=1.0))

    assert "prefill" in text
    assert "decode" in text
    assert [cell.strip() for cell in text.splitlines()[-2].split("│")[3:6]] == ["15.0", "5.0", "5.0"]


@pytest.mark.parametrize("streams", [1, 2])
def test_a_terminal_of_80_columns_holds_every_name_and_figure(streams: int) -> None:
    told = replace(_figures(streams), output_tokens_per_s=98_765.4, ttft_p50_ms=98_765.4, itl_p50_ms=98_765.4, itl_p95_ms=98_765.4)
    rows = [Row(workload="mix256", engine=name, dtype="q8_0", figures=told, peak_memory_mb=98_765.4, ratio=10.25) for name in ENGINES]
    lines = _shown(*rows, width=80).splitlines()
    assert [name for name in ENGINES if any(name in line for line in lines)] == list(ENGINES)
    assert "…" not in "".join(lines)
    assert sum("98,765" in line and "10.25" in line for line in lines) == len(ENGINES)


def test_our_own_rows_say_where_the_time_went() -> None:
    text = _shown(Row(workload="mix64", engine="paged-fp32", dtype="fp32", figures=_figures(), details=DETAILS))

    assert "steps with prompts: 1, 1 tokens, 0.80 s, 1 tok/s, 62 % of their roofline" in text
    assert "planning and bookkeeping: 0.400 s, 20.0 % of the run" in text
    assert "all of it: 50 % of a roofline of 20 output tok/s, memory read at 1 GB/s" in text
