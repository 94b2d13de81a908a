"""What people are shown."""

from io import StringIO

from rich.console import Console

from benchmarks.engine import show
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


def _shown(*rows: Row) -> str:
    console = Console(file=StringIO(), width=160)
    show(rows, console)
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def test_a_row_with_figures() -> None:
    text = _shown(Row(workload="mix64", engine="vllm", dtype="fp32", figures=_figures(), peak_memory_mb=1_234.5, ratio=0.5))

    assert "mix64: 2 requests, 6 prompt and 20 output tokens" in text
    assert [cell.strip() for cell in text.splitlines()[-2].split("│")[1:-1]] == [
        "vllm", "fp32", "10.0", "13.0", "200.0", "200.0", "200.0", "200.0", "1,234", "0.50",
    ]  # fmt: skip


def test_peers_that_are_missing_or_failed_are_named_with_the_reason() -> None:
    text = _shown(
        Row(workload="mix64", engine="vllm", dtype="fp32", missing="--vllm-python is not given"),
        Row(workload="mix64", engine="llamacpp-q8", dtype="q8_0", failed="ended with 1: [boom]"),
    )

    assert "vllm is not installed: --vllm-python is not given" in text
    assert "llamacpp-q8 failed: ended with 1: [boom]" in text


def test_a_single_stream_shows_prefill_and_decode_apart() -> None:
    text = _shown(Row(workload="single", engine="vllm", dtype="fp32", figures=_figures(1), ratio=1.0))

    assert "prefill" in text
    assert "decode" in text
    assert "total" not in text
    assert [cell.strip() for cell in text.splitlines()[-2].split("│")[3:5]] == ["15.0", "5.0"]


def test_our_own_rows_say_where_the_time_went() -> None:
    text = _shown(Row(workload="mix64", engine="paged-fp32", dtype="fp32", figures=_figures(), details=DETAILS))

    assert "steps with prompts: 1, 1 tokens, 0.80 s, 1 tok/s, 62 % of their roofline" in text
    assert "planning and bookkeeping: 0.400 s, 20.0 % of the run" in text
    assert "all of it: 50 % of a roofline of 20 output tok/s, memory read at 1 GB/s" in text
