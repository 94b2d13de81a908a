"""The model's logits against transformers', for the shapes of the family, with both attentions, however a text is cut into steps."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from headrace.errors import ModelUnavailable
from workers.engine.attention import Attention, Batch, Heads, LayerKind, TorchAttention
from workers.engine.attention_numba import NumbaAttention
from workers.engine.kv_cache import KvCache
from workers.engine.models.llama import Llama, LlamaShape
from workers.engine.models.weights import Weights

CPU = torch.device("cpu")
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
SHAPES: dict[str, dict[str, Any]] = {
    "grouped": {},
    "tied": {"tie_word_embeddings": True},
    "one head a group": {"num_key_value_heads": 4},
    "one group": {"num_key_value_heads": 1},
    "biases": {"attention_bias": True, "mlp_bias": True},
    "head size of its own": {"head_dim": 32},
    "llama 3 positions": {"rope_parameters": LLAMA3},
    "shards": {"shard_size": "60KB"},
}
LENGTHS = (1, 45, 17, 30)


class Harness:
    """A model over a cache whose sequences hold scattered blocks."""

    def __init__(self, folder: Path, kind: Callable[[KvCache, Heads, Sequence[LayerKind]], Attention], block_size: int) -> None:
        shape = LlamaShape(folder)
        self.model = Llama(shape, Weights(folder, device=CPU, dtype=torch.float32), CPU)
        blocks = -(-max(LENGTHS) // block_size)
        self.cache = KvCache(
            layers=shape.layers,
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
        self.attention = kind(self.cache, shape.heads, shape.kinds)

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


@pytest.mark.parametrize("attention", [TorchAttention, NumbaAttention])
@pytest.mark.parametrize("fields", SHAPES.values(), ids=SHAPES)
def test_logits_equal_transformers(make_model: Callable[..., Path], attention: type[Any], fields: dict[str, Any]) -> None:
    folder = make_model(**fields)
    assert len(list(folder.glob("*.safetensors"))) > 1 or "shard_size" not in fields
    texts = random_texts()
    for mine, theirs in zip(Harness(folder, attention, 8).run(texts, [0] * 4, list(LENGTHS)), reference_logits(folder, texts), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("attention", [TorchAttention, NumbaAttention])
@pytest.mark.parametrize("block_size", [4, 12, 16])
def test_chunks_and_single_tokens_in_one_batch_change_nothing(
    make_model: Callable[..., Path], attention: type[Any], block_size: int
) -> None:
    """Each text advances by a pace of its own, so steps mix long chunks, short ones and single tokens."""
    folder = make_model()
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
        torch.testing.assert_close(torch.cat(mine), theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"hidden_act": "gelu"}, "activation 'gelu' is not supported; supported: silu"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0}}, "rope scaling 'yarn' is not supported"),
    ],
)
def test_forms_that_are_not_supported_are_named(make_model: Callable[..., Path], fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelUnavailable, match=message):
        Harness(make_model(**fields), TorchAttention, 8)


def test_an_unknown_architecture_is_refused_with_the_known_ones(make_model: Callable[..., Path]) -> None:
    folder = make_model()
    config = folder / "config.json"
    config.write_text(config.read_text().replace("LlamaForCausalLM", "OtherForCausalLM"))
    with pytest.raises(ModelUnavailable, match="'OtherForCausalLM' is not supported; supported: LlamaForCausalLM"):
        LlamaShape(folder)


def test_missing_weights_are_named(make_model: Callable[..., Path]) -> None:
    folder = make_model()
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelUnavailable, match=r"has neither model\.safetensors nor model\.safetensors\.index\.json"):
        Harness(folder, TorchAttention, 8)
