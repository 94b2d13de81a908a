"""The command as a whole, with engines that are not there or scripts of a line."""

import json
import sys
from pathlib import Path

import pytest

from benchmarks import engine
from benchmarks.item import Item


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
    assert "vllm is not installed: --vllm-python is not given" in capsys.readouterr().out


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
