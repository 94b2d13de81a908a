"""Whether a model runs in 8 bits is measured, once."""

import json
import logging
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from workers.engine import precision
from workers.engine.config import EngineConfig
from workers.engine.engine import PagedEngine


@pytest.fixture
def config(make_model: Callable[..., Path]) -> EngineConfig:
    return EngineConfig(model=make_model(), device="cpu", kv_memory_mb=1, block_size=8)


def verdicts(cache: Path) -> list[Path]:
    return sorted((cache / "precision").glob("*.json"))


def test_the_verdict_is_that_of_the_text_and_is_remembered(config: EngineConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = precision.choose_dtype(config, tmp_path)
    [verdict] = verdicts(tmp_path)
    worse = json.loads(verdict.read_text())["worse"]
    assert math.isfinite(worse)
    assert chosen == ("int8" if worse <= precision.MOST_WORSE else "fp32")

    def measured_again(_config: EngineConfig) -> float:
        raise AssertionError("measured again")

    monkeypatch.setattr(precision, "perplexity", measured_again)
    assert precision.choose_dtype(config, tmp_path) == chosen


@pytest.mark.parametrize(("int8", "chosen"), [(10.09, "int8"), (9.5, "int8"), (10.2, "fp32"), (math.nan, "fp32")])
def test_one_percent_is_the_limit(int8: float, chosen: str, config: EngineConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "perplexity", lambda given: int8 if given.dtype == "int8" else 10.0)
    assert precision.choose_dtype(config, tmp_path) == chosen


def test_a_model_that_changes_is_measured_again(config: EngineConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "perplexity", lambda given: 10.0)
    precision.choose_dtype(config, tmp_path)
    (config.model / "generation_config.json").write_text("{}")
    precision.choose_dtype(config, tmp_path)
    assert len(verdicts(tmp_path)) == 2


def test_a_cache_smaller_than_a_window_of_the_text_will_do(make_model: Callable[..., Path]) -> None:
    config = EngineConfig(model=make_model(num_hidden_layers=9, max_position_embeddings=2048), device="cpu", kv_memory_mb=1, block_size=8)
    engine = PagedEngine(config)
    engine.open()
    assert engine.stats().kv_tokens_total < 512
    assert precision.perplexity(config) > 1


def test_a_verdict_that_cannot_be_written_is_said(config: EngineConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "precision").write_text("in the way")
    with caplog.at_level(logging.WARNING):
        precision.choose_dtype(config, tmp_path)
    assert "is measured anew at every start" in caplog.text
