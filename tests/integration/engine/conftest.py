"""Tiny random checkpoints, saved and loaded like real ones."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM

MakeModel = Callable[..., Path]
DEFAULTS = {
    "vocab_size": 257,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.3,  # wide enough that the best token is clearly the best
    "bos_token_id": None,
    "eos_token_id": 256,
    "pad_token_id": 256,
}


@pytest.fixture
def make_model(tmp_path: Path) -> MakeModel:
    """make_model(kind=…, seed=…, dtype=…, shard_size=…, noise=…, rewrite=…, **fields of its config) → a folder with a byte-level tokenizer
    of 256 tokens and one end-of-text.

    `kind` is transformers' model_type. `noise` is added to biases and norm weights, which transformers starts as zeros and ones: a model
    without them would compute the same. `rewrite` changes config.json afterwards; a field that is ... is taken out.
    """

    def make(
        *,
        kind: str = "llama",
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        shard_size: str = "1GB",
        noise: float = 0.0,
        rewrite: Mapping[str, Any] | None = None,
        **fields: Any,
    ) -> Path:
        torch.manual_seed(seed)
        config = AutoConfig.for_model(kind, **{**DEFAULTS, **fields})
        model: Any = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]  # transformers has no annotation here
        with torch.no_grad():
            for parameter in model.parameters():
                if noise and parameter.ndim == 1:
                    parameter += noise * torch.randn_like(parameter)
        folder = tmp_path / f"model-{seed}"
        model.to(dtype).save_pretrained(folder, max_shard_size=shard_size)
        written = {**json.loads((folder / "config.json").read_text()), **(rewrite or {})}
        (folder / "config.json").write_text(json.dumps({key: value for key, value in written.items() if value is not ...}))
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        tokenizer = Tokenizer(models.BPE(vocab={char: i for i, char in enumerate(alphabet)}, merges=[]))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        tokenizer.add_special_tokens(["<|end|>"])
        tokenizer.save(str(folder / "tokenizer.json"))
        return folder

    return make
