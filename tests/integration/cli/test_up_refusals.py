"""`headrace up` refuses what its processes would, before it makes a folder or starts one."""

import json
from pathlib import Path

import pytest

from headrace.capabilities import has_vllm
from headrace.testing.tiny_model import make_model
from tests.integration.cli.command import Headrace


@pytest.mark.parametrize(
    ("variable", "value"), [("HEADRACE_REDIS_URL", "localhost:6379"), ("HEADRACE_REDIS_URL", "redis://x:port"), ("HEADRACE_RQ_URL", "x")]
)
async def test_a_url_that_is_none_is_named(headrace: Headrace, variable: str, value: str) -> None:
    headrace.environ[variable] = value
    told = await headrace("up")
    assert told.code == 1
    assert variable in told.stderr
    assert "must be a redis://" in told.stderr
    assert not list(headrace.folder.iterdir())


@pytest.mark.parametrize(("files", "said"), [({}, "has no tokenizer.json"), ({"tokenizer.json": "{}"}, "'max_position_embeddings'")])
async def test_a_model_folder_that_no_process_could_use(headrace: Headrace, tmp_path: Path, files: dict[str, str], said: str) -> None:
    model = tmp_path / "model"
    model.mkdir()
    for name, text in {"config.json": "{}", **files}.items():
        (model / name).write_text(text)
    told = await headrace("up", "--model", str(model))
    assert (told.code, said in told.stderr) == (1, True)
    assert list(headrace.folder.iterdir()) == [model]


@pytest.mark.parametrize("engine", ["auto", "paged"])
async def test_a_model_that_the_engine_does_not_run(headrace: Headrace, tmp_path: Path, engine: str) -> None:
    make_model(model := tmp_path / "model")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "architectures": ["MixtralForCausalLM"]}))
    headrace.environ["HEADRACE_ENGINE"] = engine
    told = await headrace("up", "--model", str(model))
    assert told.code == 1
    said = " ".join(told.stderr.split())
    assert "architecture 'MixtralForCausalLM' is not supported; supported: Gemma3ForCausalLM, " in said
    assert "HEADRACE_ENGINE=transformers serves other models" in said
    assert list(headrace.folder.iterdir()) == [model]


@pytest.mark.skipif(has_vllm(), reason="it is installed here")
async def test_an_engine_whose_package_is_missing(headrace: Headrace) -> None:
    headrace.environ["HEADRACE_ENGINE"] = "vllm"
    told = await headrace("up")
    assert told.code == 1
    assert "HEADRACE_ENGINE=vllm needs the package vllm, which is not installed here" in " ".join(told.stderr.split())
    assert not list(headrace.folder.iterdir())
