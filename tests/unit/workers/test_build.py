import importlib.util
import logging
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import pytest

from headrace.errors import SettingsError
from headrace.settings import Settings
from headrace.testing.tiny_model import make_model
from workers.backends import build
from workers.backends.build import build_engine, choose_engine


@pytest.mark.parametrize(
    ("setting", "vllm", "cuda", "engine"),
    [
        ("auto", True, True, "vllm"),
        ("auto", True, False, "paged"),
        ("auto", False, True, "paged"),
        ("paged", True, True, "paged"),
        ("vllm", False, False, "vllm"),
    ],
)
def test_auto_is_vllm_where_it_and_a_gpu_are_found(setting: str, vllm: bool, cuda: bool, engine: str) -> None:
    assert choose_engine(setting, vllm=vllm, cuda=lambda: cuda) == engine


def test_torch_is_not_imported_to_learn_what_does_not_matter() -> None:
    def never() -> bool:
        raise AssertionError("asked for CUDA")

    assert choose_engine("auto", vllm=False, cuda=never) == "paged"


@pytest.mark.parametrize("engine", ["transformers", "vllm", "openai"])
def test_an_engine_that_minds_company_is_refused_where_that_must_not_be(engine: Literal["transformers", "vllm", "openai"]) -> None:
    """Before a model is looked for."""
    settings = Settings(engine=engine, model="/nowhere", batch_invariant=True, upstream_url="http://127.0.0.1:1/v1")
    with pytest.raises(SettingsError, match=f"HEADRACE_BATCH_INVARIANT=true is not to be had from the engine '{engine}'"):
        build_engine(settings)


def test_so_is_one_that_auto_has_come_to_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "has_vllm", lambda: True)
    monkeypatch.setattr(build, "_has_cuda", lambda _: True)
    with pytest.raises(SettingsError, match="from the engine 'vllm'"):
        build_engine(Settings(engine="auto", model="/nowhere", batch_invariant=True))


@pytest.mark.parametrize("engine", ["transformers", "vllm"])
def test_an_engine_whose_package_is_missing_is_refused(engine: Literal["transformers", "vllm"], monkeypatch: pytest.MonkeyPatch) -> None:
    """Before a model is looked for."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(SettingsError, match=f"HEADRACE_ENGINE={engine} needs the package {engine}, .* run: pip install {engine}"):
        build_engine(Settings(engine=engine, model="/nowhere"))


def test_so_is_one_that_cannot_be_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another version, or one that lacks something."""
    make_model(tmp_path / "model")
    monkeypatch.setattr(build, "has_vllm", lambda: True)
    monkeypatch.setattr(build, "check_installed", lambda _: None)
    monkeypatch.setitem(sys.modules, "vllm", ModuleType("vllm"))
    with pytest.raises(SettingsError, match="HEADRACE_ENGINE=vllm: the vllm that is installed here cannot be used: cannot import name"):
        build_engine(Settings(engine="vllm", model=str(tmp_path / "model")))


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({}, None),
        ({"dtype": "int8"}, "HEADRACE_DTYPE"),
        ({"dtype": "auto", "kv_dtype": "fp16"}, "HEADRACE_DTYPE and HEADRACE_KV_DTYPE"),
    ],
)
def test_what_the_engine_ignores_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture, given: dict[str, Any], told: str | None) -> None:
    make_model(tmp_path / "model")
    with caplog.at_level(logging.WARNING):
        build_engine(Settings(engine="scripted", model=str(tmp_path / "model"), **given))
    assert caplog.messages == ([f"the engine is scripted, which ignores {told}"] if told else [])
