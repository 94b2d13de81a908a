"""The command as a whole, with engines that are not there or scripts of a line."""

import json
import sys
from pathlib import Path

import pytest

from benchmarks import engine
from benchmarks.entrant import ENGINES, Entrant
from benchmarks.item import Item
from benchmarks.row import Heat


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Ready to be called with a workload of two requests; where its rows are to go."""
    monkeypatch.setattr(engine, "ROOT", tmp_path)
    monkeypatch.setattr(engine, "WORKLOADS", {"mix64": lambda folder: [Item((1, 2), 2), Item((3,), 1)]})
    monkeypatch.setattr(engine, "ensure_folder", lambda spec, cache: tmp_path)
    return tmp_path / "rows.json"


def _call(monkeypatch: pytest.MonkeyPatch, *argv: str) -> int:
    monkeypatch.setattr(sys, "argv", ["engine", *argv])
    return engine.main()


def test_peers_that_are_not_installed_are_rows_and_no_failure(
    command: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server = "--llama-server=/nowhere/llama-server"

    assert _call(monkeypatch, "--engines", "vllm,llamacpp-q8", "--json", str(command), server) == 0

    rows = json.loads(command.read_text())
    assert [(row["workload"], row["engine"], row["dtype"]) for row in rows] == [("mix64", "vllm", "fp32"), ("mix64", "llamacpp-q8", "q8_0")]
    assert [row["missing"] for row in rows] == ["--vllm-python is not given", "there is no program /nowhere/llama-server"]
    assert all(row["output_tokens_per_s"] is row["ratio"] is None for row in rows)
    assert "vllm is left out: --vllm-python is not given" in capsys.readouterr().out


def test_an_engine_that_fails_is_a_row_and_a_failure(command: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A folder without a model.
    monkeypatch.chdir(command.parent)

    assert _call(monkeypatch, "--engines", "transformers,vllm", "--json", str(command)) == 1

    failed, missing = json.loads(command.read_text())
    assert failed["failed"].startswith("ended with 1: ")
    assert missing["failed"] is None


def test_an_engine_nobody_knows_is_refused_with_those_there_are(
    command: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        _call(monkeypatch, "--engines", "paged-fp32,ollama")

    assert "unknown engine 'ollama'; there are paged-fp32, paged-int8" in capsys.readouterr().err


def test_it_says_which_engine_runs_and_keeps_the_rows_of_those_that_did(
    command: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(command.parent)
    written: list[list[str]] = []

    def run_and_look(entrant: Entrant, model: Path, work: Path) -> Heat:
        written.append([row["engine"] for row in json.loads(command.read_text())] if command.exists() else [])
        return Heat(failed="boom")

    monkeypatch.setattr(engine, "run_once", run_and_look)
    assert _call(monkeypatch, "--engines", "paged-fp32,paged-int8,vllm", "--runs", "2", "--json", str(command)) == 1

    first = ["paged-fp32", "paged-int8", "vllm"]
    assert written == [[], first[:1], first[:2], first, first, first]
    said = capsys.readouterr().out
    assert "mix64, run 1 of 2: paged-int8 runs …" in said
    assert "vllm runs" not in said


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--runs", "0"], "argument --runs: must be a whole number, at least 1, got '0'"),
        (["-n", "many"], "argument -n: must be a whole number, at least 1, got 'many'"),
        (["--json", "/no/such/rows.json"], "argument --json: no file can be made at /no/such/rows.json: no folder /no/such"),
        (["--workload", "mix65"], "argument --workload: unknown workload 'mix65'; there are single, mix64, mix256"),
    ],
)
def test_wrong_arguments_are_a_sentence(
    argv: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        _call(monkeypatch, *argv)
    assert ended.value.code == 2
    assert f"python -m benchmarks.engine: error: {said}\n" in capsys.readouterr().err


def test_a_model_that_is_not_there_is_a_sentence(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        _call(monkeypatch, "--model", "/no/such")
    assert ended.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("python -m benchmarks.engine: error: ")
    assert "/no/such" in line


def test_help_names_the_engines_and_fits_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    text = engine._parser().format_help()
    assert max(map(len, text.splitlines())) <= 80
    assert text.startswith("usage: python -m benchmarks.engine ")
    assert not [name for name in ENGINES if name not in text]
