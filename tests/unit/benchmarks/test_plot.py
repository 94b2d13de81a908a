"""The drawing, read back as XML."""

import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from benchmarks.plot import LABELS, WIDTH, main, plot
from benchmarks.row import Row, write_rows

SVG = "{http://www.w3.org/2000/svg}"


def _row(
    engine: str, speed: float | None, *, workload: str = "mix64", roofline: float | None = None, missing: str | None = None
) -> dict[str, Any]:
    row = Row(workload=workload, engine=engine, dtype="fp32", missing=missing).as_json()
    row["output_tokens_per_s"] = speed
    row["details"] = roofline and {"roofline_tokens_per_s": roofline}
    return row


def _drawn(*rows: dict[str, Any]) -> ElementTree.Element:
    return ElementTree.fromstring(plot(rows))


def test_bars_are_as_long_as_the_speeds() -> None:
    drawn = _drawn(_row("paged-fp32", 200.0, roofline=400.0), _row("vllm", 50.0))

    ours, peer = (float(bar.attrib["width"]) for bar in drawn.iter(f"{SVG}rect"))
    assert ours == pytest.approx(4 * peer, rel=0.01)
    (line,) = drawn.iter(f"{SVG}line")
    assert float(line.attrib["x1"]) - LABELS == pytest.approx(2 * ours, rel=0.01)
    assert float(line.attrib["x1"]) < WIDTH


def test_who_is_missing_has_a_name_and_no_bar() -> None:
    drawn = _drawn(_row("a <peer>", None, missing="x"), _row("vllm", 1.0))

    texts = [text.text for text in drawn.iter(f"{SVG}text")]
    assert "a <peer>" in texts
    assert "left out" in texts
    assert len(list(drawn.iter(f"{SVG}rect"))) == 1


def test_nobody_ran() -> None:
    assert not list(_drawn(_row("vllm", None, missing="x")).iter(f"{SVG}rect"))


def test_each_workload_has_a_panel_below_the_last() -> None:
    drawn = _drawn(_row("vllm", 10.0), _row("vllm", 5.0, workload="mix256"))

    first, second = drawn.iter(f"{SVG}rect")
    assert float(second.attrib["y"]) > float(first.attrib["y"])
    assert first.attrib["width"] == second.attrib["width"], "each has its own scale"
    assert float(second.attrib["y"]) < float(drawn.attrib["height"])


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "No such file"), ("{", "is no JSON"), ('{"engine": 1}', "holds no rows"), ('[{"engine": "vllm"}]', "holds no rows")],
)
def test_what_holds_no_rows_is_refused_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], content: str | None, said: str
) -> None:
    rows = tmp_path / "rows.json"
    if content is not None:
        rows.write_text(content)
    monkeypatch.setattr(sys, "argv", ["plot", str(rows)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("python -m benchmarks.plot: error: ")
    assert said in line
    assert str(rows) in line
    assert not rows.with_suffix(".svg").exists()


def test_what_the_benchmark_wrote_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = tmp_path / "rows.json"
    write_rows(rows, [Row(workload="mix64", engine="vllm", dtype="fp32", missing="x")])
    monkeypatch.setattr(sys, "argv", ["plot", str(rows)])
    main()
    assert "left out" in rows.with_suffix(".svg").read_text()
