"""Tiny random checkpoints, saved and loaded like real ones."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM

MakeModel = Callable[..., Path]


@pytest.fixture
def make_model(tmp_path: Path) -> MakeModel:
    """make_model(seed=…, shard_size=…, **LlamaConfig fields) → a folder with a byte-level tokenizer of 256 tokens and one end-of-text."""

    def make(*, seed: int = 0, shard_size: str = "1GB", **fields: Any) -> Path:
        torch.manual_seed(seed)
        config = LlamaConfig(
            **{
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
                **fields,
            }
        )
        folder = tmp_path / f"model-{seed}"
        LlamaForCausalLM(config).save_pretrained(folder, max_shard_size=shard_size)
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        tokenizer = Tokenizer(models.BPE(vocab={char: i for i, char in enumerate(alphabet)}, merges=[]))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        tokenizer.add_special_tokens(["<|end|>"])
        tokenizer.save(str(folder / "tokenizer.json"))
        return folder

    return make
