"""Which engines can take part, and how those are named that cannot."""

import sys
from argparse import Namespace
from pathlib import Path

import pytest

from benchmarks.entrant import ENGINES, entrant

NOTHING = Namespace(vllm_python=None, llama_server="llama-server-that-is-nowhere", gguf_f32=None, gguf_q8=None)
MODEL, WORK = Path("model"), Path("work.json")


def _with(**given: object) -> Namespace:
    return Namespace(**{**vars(NOTHING), **given})


def test_without_any_peer_what_the_project_needs_itself_still_runs() -> None:
    assert [name for name in ENGINES if entrant(name, NOTHING).missing is None] == ["paged-fp32", "paged-int8", "transformers"]


@pytest.mark.parametrize(
    ("name", "options", "missing"),
    [
        ("vllm", NOTHING, "--vllm-python is not given"),
        ("vllm", _with(vllm_python="/nowhere/python"), "there is no interpreter /nowhere/python"),
        ("llamacpp-f32", NOTHING, "there is no program llama-server-that-is-nowhere"),
        ("llamacpp-f32", _with(llama_server=sys.executable), "--gguf-f32 is not given"),
        ("llamacpp-q8", _with(llama_server=sys.executable, gguf_q8=Path("/nowhere/q8.gguf")), "there is no file /nowhere/q8.gguf"),
    ],
)
def test_what_is_missing_is_named(name: str, options: Namespace, missing: str) -> None:
    assert entrant(name, options).missing == missing


def test_the_paged_engine_is_told_its_dtype() -> None:
    argv = entrant("paged-int8", NOTHING).argv(MODEL, WORK)

    assert argv == [sys.executable, "-m", "benchmarks.engines.paged", "model", "work.json", "--dtype", "int8"]


def test_vllm_runs_under_its_own_interpreter() -> None:
    argv = entrant("vllm", _with(vllm_python=sys.executable)).argv(MODEL, WORK)

    assert argv == [sys.executable, "-m", "benchmarks.engines.vllm", "model", "work.json"]


def test_llamacpp_is_given_the_weights_of_its_name(tmp_path: Path) -> None:
    for option in ("gguf_f32", "gguf_q8"):
        (tmp_path / option).touch()
    options = _with(llama_server=sys.executable, gguf_f32=tmp_path / "gguf_f32", gguf_q8=tmp_path / "gguf_q8")

    assert entrant("llamacpp-f32", options).argv(MODEL, WORK)[-1] == str(tmp_path / "gguf_f32")
    q8 = entrant("llamacpp-q8", options)
    assert (q8.dtype, q8.argv(MODEL, WORK)[-1]) == ("q8_0", str(tmp_path / "gguf_q8"))
