"""A folder that cannot be served is refused in one sentence that names what is wrong with it, or what of it is not used is told."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from headrace.errors import ModelUnavailable
from workers.engine.config import EngineConfig
from workers.engine.engine import PagedEngine

INDEX = "model.safetensors.index.json"


def load(folder: Path) -> PagedEngine:
    return PagedEngine(EngineConfig(model=folder, device="cpu", kv_memory_mb=1, block_size=8))


@pytest.fixture
def folder(make_model: Callable[..., Path]) -> Path:
    return make_model()


@pytest.fixture
def sharded(make_model: Callable[..., Path]) -> Path:
    return make_model(shard_size="100KB")


def write_index(folder: Path, weight_map: object) -> None:
    (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}))


def rewrite(folder: Path, **changes: Any) -> None:
    """Tensors by their names."""
    tensors = load_file(folder / "model.safetensors")
    for name, tensor in changes.items():
        tensors[name] = tensor
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def test_an_index_that_names_the_wrong_file(sharded: Path) -> None:
    files = json.loads((sharded / INDEX).read_text())["weight_map"]
    name = "model.norm.weight"
    other = next(file for file in files.values() if file != files[name])
    write_index(sharded, {**files, name: other})
    with pytest.raises(ModelUnavailable, match=f"{other} has no tensor '{name}', which the index says is there"):
        load(sharded)


@pytest.mark.parametrize("weight_map", [{"model.norm.weight": 3}, ["model.norm.weight"], "model.safetensors", None])
def test_an_index_of_another_shape(folder: Path, weight_map: object) -> None:
    write_index(folder, weight_map)
    with pytest.raises(ModelUnavailable, match="'weight_map' must be an object of file names, got"):
        load(folder)


def test_weights_that_are_integers(folder: Path) -> None:
    """Somebody's quantization, of which config.json says nothing: as plain numbers they would make nonsense."""
    name = "model.layers.1.mlp.down_proj.weight"
    rewrite(folder, **{name: load_file(folder / "model.safetensors")[name].to(torch.int8)})
    with pytest.raises(ModelUnavailable, match=f"tensor '{name}' has the type torch.int8: quantized weights are not supported"):
        load(folder)


def test_tensors_that_nobody_took_are_told(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 1}))
    with caplog.at_level(logging.WARNING):
        load(folder)
    [told] = caplog.messages
    assert told.startswith(f"{folder} holds 9 tensors that its config.json has no place for, such as model.layers.1.")


def test_tensors_that_nobody_needs_are_not(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A head that is the embedding again, and what early versions of transformers kept of rotations."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}))
    rewrite(folder, **{"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8)})
    assert "lm_head.weight" in load_file(folder / "model.safetensors")
    with caplog.at_level(logging.WARNING):
        load(folder)
    assert not caplog.messages
