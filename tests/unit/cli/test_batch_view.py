import io
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from headrace.cli.batch_view import ETA_AFTER, LINE_EVERY_S, WINDOW_S, BatchView, Pace


def batch(status: str, *, completed: int = 0, failed: int = 0, total: int = 100, tokens: int = 0) -> dict[str, Any]:
    counts = {"total": total, "completed": completed, "failed": failed}
    return {"id": "batch_1", "status": status, "request_counts": counts, "usage": {"output_tokens": tokens}}


@given(st.floats(0.1, 50), st.integers(0, 10_000), st.integers(1, 1_000), st.integers(2, 200))
def test_a_steady_pace_is_seen_from_wherever_it_is_looked_at(step_s: float, lines: int, a_step: int, looks: int) -> None:
    pace = Pace()
    for look in range(looks):
        pace.observe(look * step_s, lines + look * a_step, 10 * (lines + look * a_step))
    assert pace.tokens_per_s == pytest.approx(10 * a_step / step_s)
    told = (looks - 1) * a_step >= ETA_AFTER
    assert pace.left_s(7) == (pytest.approx(7 * step_s / a_step) if told else None)


def test_what_was_before_the_window_does_not_count() -> None:
    pace = Pace()
    pace.observe(0, 0, 0)
    pace.observe(1, 1_000, 1_000)
    assert pace.tokens_per_s == 1_000
    pace.observe(1 + WINDOW_S, 1_000, 1_000)
    assert (pace.tokens_per_s, pace.left_s(1)) == (0.0, None)


def test_one_look_tells_no_pace() -> None:
    pace = Pace()
    assert (pace.tokens_per_s, pace.left_s(1)) == (0.0, None)
    pace.observe(3, 50, 500)
    pace.observe(3, 50, 500)
    assert (pace.tokens_per_s, pace.left_s(1)) == (0.0, None)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_log_gets_a_line_now_and_then_and_whenever_the_status_changes() -> None:
    out, clock = io.StringIO(), Clock()
    with BatchView(Console(file=out, width=200), clock) as view:
        view.phase("uploading the input")
        view.phase("uploading the input")
        for second in range(int(2 * LINE_EVERY_S) + 1):
            clock.now = 100.0 + second
            view.show(batch("in_progress", completed=2 * second, failed=second // 10, tokens=20 * second))
        view.show(batch("completed", completed=98, failed=2, tokens=980))
    assert out.getvalue().splitlines() == [
        "uploading the input …",
        "in_progress: 0/100 lines · none has ended yet, the first take a while · 0:00:00 elapsed",
        "in_progress: 21/100 lines · 1 failed · 20 tokens/s · 0:00:10 elapsed · ETA 0:00:38",
        "in_progress: 42/100 lines · 2 failed · 20 tokens/s · 0:00:20 elapsed · ETA 0:00:28",
        "completed: 100/100 lines · 2 failed · 49 tokens/s · 0:00:20 elapsed",
    ]


def test_a_terminal_gets_a_bar() -> None:
    out, clock = io.StringIO(), Clock()
    with BatchView(Console(file=out, width=120, force_terminal=True), clock) as view:
        view.phase("uploading the input")
        view.show(batch("validating", total=0))
        view.show(batch("in_progress"))
        clock.now += 10
        view.show(batch("in_progress", completed=38, failed=2, tokens=400))
    last = out.getvalue()
    assert "40/100" in last
    assert "2 failed · 40 tokens/s" in last
    assert "ETA 0:00:15" in last


def test_faults_are_told_as_far_as_they_help() -> None:
    out = io.StringIO()
    faults: list[dict[str, Any]] = [{"code": "empty_file", "message": "The file holds no [bold]request[/].", "param": None, "line": None}]
    faults += [{"code": "invalid_json_line", "message": "No JSON.", "param": None, "line": n} for n in range(3, 24)]
    BatchView(Console(file=out, width=200)).refused({"errors": {"object": "list", "data": faults}})
    told = out.getvalue().splitlines()
    assert told[:3] == ["refused: 22 problems", "The file holds no [bold]request[/]. (empty_file)", "line 3: No JSON. (invalid_json_line)"]
    assert (len(told), told[-1]) == (22, "… and 2 more")


def test_a_fault_of_all_lines_is_told_once() -> None:
    out = io.StringIO()
    faults = [{"code": "model_not_found", "message": "No model.", "param": "body.model", "line": n} for n in range(2, 9)]
    BatchView(Console(file=out, width=200)).refused({"errors": {"object": "list", "data": faults}})
    assert out.getvalue().splitlines() == ["refused: 7 problems", "7 times, first in line 2: No model. (model_not_found)"]


@pytest.mark.parametrize("status", ["cancelled", "expired"])
def test_lines_that_were_not_run_are_not_called_failed(status: str) -> None:
    out = io.StringIO()
    with BatchView(Console(file=out, width=200), Clock()) as view:
        view.show(batch(status, completed=15, failed=25, total=40))
    assert out.getvalue() == f"{status}: 15/40 lines · 25 failed or not run · 0:00:00 elapsed\n"


def test_a_terminal_shows_no_bar_before_there_is_something_to_say() -> None:
    out = io.StringIO()
    with BatchView(Console(file=out, width=120, force_terminal=True)):
        pass
    assert "0/?" not in out.getvalue()


@pytest.mark.parametrize("ended", [{}, {"errors": None}, {"errors": {"object": "list", "data": []}}])
def test_a_batch_without_faults_is_told_nothing_of(ended: dict[str, Any]) -> None:
    out = io.StringIO()
    BatchView(Console(file=out)).refused(ended)
    assert out.getvalue() == ""
