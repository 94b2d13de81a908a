"""The model's logits against transformers', for the shapes of the family, with both attentions, however a text is cut into steps."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from headrace.errors import ModelUnavailable
from workers.engine.activations import Activations, tensor_of
from workers.engine.attention import Attention, Batch, Heads, LayerKind, TorchAttention
from workers.engine.cpu.attention import CpuAttention
from workers.engine.kernels import activations_of
from workers.engine.kv_cache import KvCache
from workers.engine.linear import linear_maker
from workers.engine.models.decoder import Decoder
from workers.engine.models.registry import read_shape
from workers.engine.models.weights import Weights

CPU = torch.device("cpu")
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 64}
ROPES: dict[str, dict[str, Any]] = {
    "linear": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.5},
    "dynamic": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0},
    "yarn": YARN,
    "yarn, not rounded, weighted": {**YARN, "truncate": False, "mscale": 0.7, "mscale_all_dim": 0.5, "beta_fast": 8, "beta_slow": 2},
    "yarn, given factor": {**YARN, "attention_factor": 1.25},
    "llama3": {
        "rope_type": "llama3",
        "rope_theta": 500_000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    },
}
MISTRAL = {"kind": "mistral", "sliding_window": 10}
QWEN2 = {"kind": "qwen2", "use_sliding_window": True, "sliding_window": 10, "max_window_layers": 1, "tie_word_embeddings": True}
QWEN3 = {"kind": "qwen3", "head_dim": 16, "use_sliding_window": True, "sliding_window": 7, "max_window_layers": 1}
SMOLLM3 = {"kind": "smollm3", "num_hidden_layers": 3, "no_rope_layer_interval": 2}
GEMMA3 = {
    "kind": "gemma3_text",
    "num_hidden_layers": 3,
    "head_dim": 16,
    "query_pre_attn_scalar": 24,
    "sliding_window": 10,
    "sliding_window_pattern": 2,
}
GEMMA3_ROPES = {
    "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 500.0},
}
MODELS: dict[str, dict[str, Any]] = {
    "llama": {},
    "llama, tied": {"tie_word_embeddings": True},
    "llama, one head a group": {"num_key_value_heads": 4},
    "llama, one group": {"num_key_value_heads": 1},
    "llama, biases": {"attention_bias": True, "mlp_bias": True},
    "llama, head size of its own": {"head_dim": 32},
    "llama, shards": {"shard_size": "60KB"},
    "llama, half precision": {"dtype": torch.bfloat16},
    "llama, file of transformers 4": {
        "rewrite": {"rope_parameters": ..., "dtype": ..., "rope_theta": 5e3, "rope_scaling": {"type": "linear", "factor": 2.0}}
    },
    **{f"llama, {name} positions": {"rope_parameters": rope} for name, rope in ROPES.items()},
    "mistral": {**MISTRAL, "sliding_window": None},
    "mistral, window": MISTRAL,
    "qwen2": {"kind": "qwen2"},
    "qwen2, windows above, tied": QWEN2,
    "qwen2, named layers": {**QWEN2, "layer_types": ["sliding_attention", "full_attention"]},
    "qwen2, file of transformers 4": {**QWEN2, "rewrite": {"layer_types": ..., "rope_parameters": ..., "rope_theta": 1e6}},
    "qwen3": {"kind": "qwen3", "head_dim": 16},
    "qwen3, windows above": QWEN3,
    "gemma3": GEMMA3,
    "gemma3, half precision": {**GEMMA3, "dtype": torch.bfloat16},
    "gemma3, other positions": {**GEMMA3, "rope_parameters": GEMMA3_ROPES},
    "gemma3, file of transformers 4": {
        **GEMMA3,
        "rewrite": {
            "layer_types": ...,
            "rope_parameters": ...,
            "tie_word_embeddings": ...,
            "rope_theta": 1e5,
            "rope_local_base_freq": 700.0,
            "rope_scaling": {"rope_type": "linear", "factor": 4.0},
        },
    },
    "smollm3": SMOLLM3,
    "smollm3, named layers, untied": {**SMOLLM3, "no_rope_layers": [0, 1, 0], "tie_word_embeddings": False},
}
LENGTHS = (1, 45, 17, 30)


class AmongKernels:
    """Attention in torch where the layers before and behind it are kernels."""

    def __init__(self, attention: TorchAttention) -> None:
        self.begin = attention.begin
        self._attention = attention

    def __call__(self, layer: int, qkv: Activations) -> Activations:
        return activations_of(self._attention(layer, tensor_of(qkv)))


class Harness:
    """A model over a cache whose sequences hold scattered blocks."""

    def __init__(self, folder: Path, kind: Callable[[KvCache, Heads, Sequence[LayerKind]], Attention], block_size: int) -> None:
        shape = read_shape(folder)
        self.model = Decoder(shape, Weights(folder, device=CPU, dtype=torch.float32), CPU, linear_maker("fp32"))
        blocks = -(-max(LENGTHS) // block_size)
        self.cache = KvCache(
            layers=len(shape.layers),
            blocks=blocks * len(LENGTHS),
            block_size=block_size,
            kv_heads=shape.heads.kv,
            head_dim=shape.heads.dim,
            slots=len(LENGTHS),
            blocks_per_slot=blocks,
            device=CPU,
            dtype=torch.float32,
        )
        order = torch.randperm(blocks * len(LENGTHS), generator=torch.Generator().manual_seed(1)).tolist()
        for slot in range(len(LENGTHS)):
            self.cache.assign(slot, 0, order[slot * blocks : (slot + 1) * blocks])
        attention = kind(self.cache, shape.heads, shape.layers)
        self.attention = AmongKernels(attention) if isinstance(attention, TorchAttention) else attention

    def run(self, texts: list[list[int]], starts: list[int], counts: list[int]) -> list[Tensor]:
        """Logits of tokens [start, start + count) of each text whose count is not 0."""
        rows = [i for i, count in enumerate(counts) if count]
        ids = [token for i in rows for token in texts[i][starts[i] : starts[i] + counts[i]]]
        positions = [p for i in rows for p in range(starts[i], starts[i] + counts[i])]
        batch = Batch(
            token_ids=torch.tensor(ids),
            positions=torch.tensor(positions),
            slots=tuple(rows),
            starts=tuple(starts[i] for i in rows),
            counts=tuple(counts[i] for i in rows),
            sampled=torch.arange(len(ids)),
        )
        with torch.inference_mode():
            logits = iter(self.model(batch, self.attention))
            return [torch.stack([next(logits) for _ in range(counts[i])]) for i in rows]


def random_texts() -> list[list[int]]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(0, 257, (length,), generator=generator).tolist() for length in LENGTHS]


def reference_logits(folder: Path, texts: list[list[int]]) -> list[Tensor]:
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.inference_mode():
        return [model(torch.tensor([text])).logits[0] for text in texts]


@pytest.mark.parametrize("fields", MODELS.values(), ids=MODELS)
def test_logits_equal_transformers(make_model: Callable[..., Path], fields: dict[str, Any]) -> None:
    folder = make_model(noise=0.3, **fields)
    assert len(list(folder.glob("*.safetensors"))) > 1 or "shard_size" not in fields
    texts = random_texts()
    reference = reference_logits(folder, texts)
    for attention in (TorchAttention, CpuAttention):
        for mine, theirs in zip(Harness(folder, attention, 8).run(texts, [0] * 4, list(LENGTHS)), reference, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=2e-4)


@pytest.mark.parametrize("attention", [TorchAttention, CpuAttention])
@pytest.mark.parametrize(
    ("fields", "block_size"),
    [({}, 4), ({}, 12), (MISTRAL, 4), (MISTRAL, 8), (QWEN2, 8), (QWEN3, 8), (GEMMA3, 8), (SMOLLM3, 8)],
    ids=lambda value: value.get("kind", "llama") if isinstance(value, dict) else str(value),
)
def test_chunks_and_single_tokens_in_one_batch_change_nothing(
    make_model: Callable[..., Path], attention: type[Any], fields: dict[str, Any], block_size: int
) -> None:
    """Each text advances by a pace of its own, so steps mix long chunks, short ones and single tokens."""
    folder = make_model(noise=0.3, **fields)
    texts = random_texts()
    harness = Harness(folder, attention, block_size)
    paces, done = (1, 11, 1, 4), [0, 0, 0, 0]
    parts: list[list[Tensor]] = [[], [], [], []]
    while done != list(LENGTHS):
        counts = [min(pace, length - d) for pace, length, d in zip(paces, LENGTHS, done, strict=True)]
        logits = iter(harness.run(texts, done, counts))
        for i, count in enumerate(counts):
            if count:
                parts[i].append(next(logits))
                done[i] += count
    for mine, theirs in zip(parts, reference_logits(folder, texts), strict=True):
        torch.testing.assert_close(torch.cat(mine), theirs, rtol=1e-4, atol=2e-4)


def test_missing_weights_are_named(make_model: Callable[..., Path]) -> None:
    folder = make_model()
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelUnavailable, match=r"has neither model\.safetensors nor model\.safetensors\.index\.json"):
        Harness(folder, TorchAttention, 8)
