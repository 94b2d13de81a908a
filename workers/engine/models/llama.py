"""The Llama family: RMS norm, rotary positions, grouped query attention, gated MLP."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from headrace.errors import ModelUnavailable
from workers.engine.attention import Attention, Batch, Heads, LayerKind
from workers.engine.layers import RmsNorm, Rotary, silu_and_mul
from workers.engine.linear import Linear, make_linear
from workers.engine.models.weights import Weights

SUPPORTED = ("LlamaForCausalLM",)
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class LlamaLayer:
    """One decoder layer. Projections of the same input are one matrix: queries, keys and values; gate and up."""

    def __init__(self, index: int, shape: "LlamaShape", weights: Weights) -> None:
        heads, hidden, inner = shape.heads, shape.hidden, shape.inner
        q, kv = heads.query * heads.dim, heads.kv * heads.dim
        prefix = f"model.layers.{index}."
        attention, mlp = prefix + "self_attn.", prefix + "mlp."

        def linear(names: list[str], rows: list[int], width: int) -> Linear:
            weight = weights.take_rows([name + ".weight" for name in names], rows, width)
            biased = names[0] + ".bias" in weights
            return make_linear(weight, weights.take_rows([name + ".bias" for name in names], rows) if biased else None)

        self._index = index
        self._input_norm = RmsNorm(weights.take(prefix + "input_layernorm.weight", hidden), shape.eps)
        self._qkv = linear([attention + "q_proj", attention + "k_proj", attention + "v_proj"], [q, kv, kv], hidden)
        self._out = linear([attention + "o_proj"], [hidden], q)
        self._mlp_norm = RmsNorm(weights.take(prefix + "post_attention_layernorm.weight", hidden), shape.eps)
        self._gate_up = linear([mlp + "gate_proj", mlp + "up_proj"], [inner, inner], hidden)
        self._down = linear([mlp + "down_proj"], [hidden], inner)

    def __call__(self, x: Tensor, attention: Attention) -> Tensor:
        x = x + self._out(attention(self._index, self._qkv(self._input_norm(x))))
        return x + self._down(silu_and_mul(self._gate_up(self._mlp_norm(x))))


class LlamaShape:
    """What config.json says of the model's form. Raises ModelUnavailable for a form that is not supported."""

    def __init__(self, folder: Path) -> None:
        try:
            self.config: Mapping[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ModelUnavailable(f"cannot read {folder / 'config.json'}: {error}") from error
        architectures = self.config.get("architectures") or [None]
        if architectures[0] not in SUPPORTED:
            raise ModelUnavailable(f"architecture {architectures[0]!r} is not supported; supported: {', '.join(SUPPORTED)}")
        if self.config.get("hidden_act", "silu") != "silu":
            raise ModelUnavailable(f"activation {self.config['hidden_act']!r} is not supported; supported: silu")
        try:
            query = self.config["num_attention_heads"]
            self.hidden: int = self.config["hidden_size"]
            self.inner: int = self.config["intermediate_size"]
            self.layers: int = self.config["num_hidden_layers"]
            self.vocab: int = self.config["vocab_size"]
        except KeyError as error:
            raise ModelUnavailable(f"{folder / 'config.json'} lacks {error}") from None
        self.heads = Heads(query, self.config.get("num_key_value_heads") or query, self.config.get("head_dim") or self.hidden // query)
        self.kinds = (LayerKind(scale=self.heads.dim**-0.5),) * self.layers
        self.eps: float = self.config.get("rms_norm_eps", 1e-6)
        self.dtype = _DTYPES.get(self.config.get("dtype") or self.config.get("torch_dtype") or "", torch.float32)
        self.tied: bool = self.config.get("tie_word_embeddings", False)


class Llama:
    """A decoder with its weights on one device."""

    def __init__(self, shape: LlamaShape, weights: Weights, device: torch.device) -> None:
        self._rotary = Rotary(shape.config, shape.heads.dim, device)
        self._embedding = weights.take("model.embed_tokens.weight", shape.vocab, shape.hidden)
        self._layers = [LlamaLayer(i, shape, weights) for i in range(shape.layers)]
        self._norm = RmsNorm(weights.take("model.norm.weight", shape.hidden), shape.eps)
        self._head = make_linear(self._embedding if shape.tied else weights.take("lm_head.weight", shape.vocab, shape.hidden))

    def __call__(self, batch: Batch, attention: Attention) -> Tensor:
        """Logits (S, vocab), float32, of the tokens in `batch.sampled`."""
        attention.begin(batch, [self._rotary(batch.positions)])
        x = F.embedding(batch.token_ids, self._embedding)
        for layer in self._layers:
            x = layer(x, attention)
        return self._head(self._norm(x[batch.sampled])).float()
