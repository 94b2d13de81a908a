"""Whether a model runs in 8 bits is measured, once."""

import json
import logging
import math
import platform
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib import resources
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from benchmarks.quality import measure
from headrace.errors import ModelUnavailable, SettingsError
from headrace.settings import Settings
from workers.backends.build import build_engine
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


@pytest.mark.parametrize(
    ("int8", "fp32", "chosen"),
    [
        (10.09, 10.0, "int8"),
        (9.5, 10.0, "int8"),
        (10.2, 10.0, "fp32"),
        (math.nan, 10.0, "fp32"),
        (10.0, math.nan, "fp32"),
        (math.nan, math.nan, "fp32"),
    ],
)
def test_one_percent_is_the_limit(
    int8: float, fp32: float, chosen: str, config: EngineConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "perplexity", lambda given: int8 if given.dtype == "int8" else fp32)
    assert precision.choose_dtype(config, tmp_path) == chosen
    assert precision.choose_dtype(config, tmp_path) == chosen  # as it was remembered


@pytest.mark.parametrize("found", ["", "{}", "[]", "1", '{"worse": null}', '{"worse": [1]}', '{"worse": "0.0"}', '{"worse": true}'])
def test_a_verdict_of_another_shape_is_no_verdict(
    found: str, config: EngineConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "perplexity", lambda given: 12.0 if given.dtype == "int8" else 10.0)
    precision.choose_dtype(config, tmp_path)
    [verdict] = verdicts(tmp_path)
    right = verdict.read_text()
    verdict.write_text(found)
    assert precision.choose_dtype(config, tmp_path) == "fp32"
    assert verdict.read_text() == right


def spoil_embedding(folder: Path, token: int) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["model.embed_tokens.weight"][token] = math.nan
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def test_a_model_of_no_numbers_has_no_perplexity(config: EngineConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One token of the text makes nonsense of all behind it: whole windows fail, and must not be left out."""

    config = replace(config, dtype="fp32")
    sound = precision.perplexity(config)
    assert math.isfinite(sound)
    text = resources.files("workers.engine").joinpath("fixed_text.txt").read_text()[:2048]
    rare = min((text.count(char), char) for char in set(text) if char > " ")[1]
    spoil_embedding(config.model, ord(rare) - ord("!"))  # a byte-level alphabet begins with the printable characters
    with caplog.at_level(logging.WARNING):
        assert math.isnan(precision.perplexity(config))
        caplog.clear()
        assert precision.choose_dtype(config, tmp_path) == "fp32"
    failed, verdict = caplog.messages  # once, however many windows there are
    assert failed == "a part of the fixed text failed: the model's output for this request is not a number"
    assert verdict.startswith("weights are fp32")


def test_room_that_is_too_small_is_told_before_anything_is_measured(
    make_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def measured(*_: object) -> float:
        raise AssertionError("measured first")

    monkeypatch.setattr(precision, "choose_dtype", measured)
    folder = make_model(max_position_embeddings=8192)
    settings = Settings(model=str(folder), engine="paged", device="cpu", kv_memory_mb=1)
    said = "HEADRACE_KV_MEMORY_MB=1 holds 4096 tokens, less than the context of 8192: raise it to 2, or lower HEADRACE_MAX_CONTEXT to 4096"
    with pytest.raises(SettingsError, match=said):
        build_engine(settings)


def test_room_is_that_of_what_was_chosen(make_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache beside weights in 8 bits has half precision, and holds twice as many tokens."""
    settings = Settings(model=str(make_model(max_position_embeddings=4096)), engine="paged", device="cpu", kv_memory_mb=1)
    monkeypatch.setattr(precision, "choose_dtype", lambda *_: "int8")
    assert build_engine(settings).stats().kv_tokens_total == 4096
    monkeypatch.setattr(precision, "choose_dtype", lambda *_: "fp32")
    with pytest.raises(SettingsError, match="HEADRACE_KV_MEMORY_MB=1 holds 2048 tokens, less than the context of 4096"):
        build_engine(settings)


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


def test_what_types_cost_is_measured_on_the_same_text(config: EngineConfig) -> None:
    measured = {(dtype, kv_dtype): its for dtype, kv_dtype, its in measure(config)}
    assert len(measured) == 4
    first = measured["fp32", "fp32"]
    assert (first.worse, first.error, first.same) == (0, 0, 1)
    assert first.perplexity == pytest.approx(precision.perplexity(replace(config, dtype="fp32", kv_dtype="fp32")))
    for (dtype, kv_dtype), its in measured.items():
        assert its.perplexity == pytest.approx(first.perplexity * (1 + its.worse))
        assert (its == first) == ((dtype, kv_dtype) == ("fp32", "fp32")), "it is computed in these types"


def test_a_verdict_that_cannot_be_written_is_said(config: EngineConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "precision").write_text("in the way")
    with caplog.at_level(logging.WARNING):
        precision.choose_dtype(config, tmp_path)
    assert "is measured anew at every start" in caplog.text


def test_nothing_is_said_to_be_measured_of_a_model_that_cannot_be_loaded(
    config: EngineConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (config.model / "model.safetensors").unlink()
    with caplog.at_level(logging.INFO), pytest.raises(ModelUnavailable, match="has neither"):
        precision.choose_dtype(config, tmp_path)
    assert not caplog.messages


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator")
def test_what_was_freed_goes_back_to_the_system() -> None:
    """Blocks below what the allocator maps one by one, with one that stays behind them: so it cannot shrink by itself."""
    held = """
import psutil
from workers.engine.precision import give_back
blocks = [bytearray(b"x" * 100_000) for _ in range(2_000)]
last, full = blocks[-1], psutil.Process().memory_info().rss
del blocks
give_back()
print(full - psutil.Process().memory_info().rss)
"""
    ended = subprocess.run([sys.executable, "-c", held], capture_output=True, text=True, check=True, timeout=120)
    assert int(ended.stdout) > 150_000_000
