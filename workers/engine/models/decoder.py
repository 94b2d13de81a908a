"""The decoder that all supported architectures are: RMS norm, rotary positions, grouped query attention, gated MLP."""

import torch
import torch.nn.functional as F
from torch import Tensor

from workers.engine.activations import Activations, tensor_of
from workers.engine.attention import Attention, Batch
from workers.engine.kernels import activations_of
from workers.engine.layers import Norm, make_activation, make_head_norms, make_norm
from workers.engine.linear import Linear, MakeLinear
from workers.engine.models.shape import Shape
from workers.engine.models.weights import Weights
from workers.engine.rotary import Rotary

HEAD = "lm_head.weight"


class Decoder:
    """A model with its weights on one device."""

    def __init__(self, shape: Shape, weights: Weights, device: torch.device, make_linear: MakeLinear) -> None:
        """Raises ModelUnavailable for weights that are missing or do not fit the shape, or a rotation that is not supported."""
        self._rotaries = [Rotary(rope, shape.heads.dim, device) for rope in shape.ropes]
        self._embedding = weights.take("model.embed_tokens.weight", shape.vocab, shape.hidden)
        # As a tensor, so that it is rounded as the embedding is.
        self._scale = None if shape.embedding_scale == 1.0 else self._embedding.new_tensor(shape.embedding_scale)
        self._layers = [DecoderLayer(i, shape, weights, make_linear) for i in range(len(shape.layers))]
        self._norm = _norm("model.norm", shape, weights)
        self._head = make_linear(self._embedding if shape.tied else weights.take(HEAD, shape.vocab, shape.hidden), None)

    def __call__(self, batch: Batch, attention: Attention) -> Tensor:
        """Logits (S, vocab), float32, of the tokens in `batch.sampled`."""
        attention.begin(batch, [rotary(batch.positions) for rotary in self._rotaries])
        x = F.embedding(batch.token_ids, self._embedding)
        if self._scale is not None:
            x = x * self._scale
        rows = activations_of(x)
        for layer in self._layers:
            rows = layer(rows, attention)
        return tensor_of(self._head(self._norm(activations_of(tensor_of(rows)[batch.sampled])))).float()


class DecoderLayer:
    """Projections of the same input are one matrix: queries, keys and values; gate and up."""

    def __init__(self, index: int, shape: Shape, weights: Weights, make_linear: MakeLinear) -> None:
        heads, hidden, inner, names = shape.heads, shape.hidden, shape.inner, shape.norms
        q, kv = heads.query * heads.dim, heads.kv * heads.dim
        prefix = f"model.layers.{index}."
        attention, mlp = prefix + "self_attn.", prefix + "mlp."

        def norm(name: str | None) -> Norm:
            return _unchanged if name is None else _norm(prefix + name, shape, weights)

        def linear(names: list[str], rows: list[int], width: int) -> Linear:
            weight = weights.take_rows([name + ".weight" for name in names], rows, width)
            biased = names[0] + ".bias" in weights
            return make_linear(weight, weights.take_rows([name + ".bias" for name in names], rows) if biased else None)

        self._index = index
        self._before_attention = norm(names.before_attention)
        self._qkv = linear([attention + "q_proj", attention + "k_proj", attention + "v_proj"], [q, kv, kv], hidden)
        self._head_norms = _head_norms(attention, shape, weights) if shape.head_norms else _unchanged
        self._out = linear([attention + "o_proj"], [hidden], q)
        self._after_attention = norm(names.after_attention)
        self._before_mlp = norm(names.before_mlp)
        self._gate_up = linear([mlp + "gate_proj", mlp + "up_proj"], [inner, inner], hidden)
        self._activation = make_activation(shape.activation, weights.device, weights.dtype)
        self._down = linear([mlp + "down_proj"], [hidden], inner)
        self._after_mlp = norm(names.after_mlp)

    def __call__(self, x: Activations, attention: Attention) -> Activations:
        """(T, hidden), changed in place."""
        qkv = self._head_norms(self._qkv(self._before_attention(x)))
        x += self._after_attention(self._out(attention(self._index, qkv)))
        x += self._after_mlp(self._down(self._activation(self._gate_up(self._before_mlp(x)))))
        return x


def _norm(name: str, shape: Shape, weights: Weights) -> Norm:
    return make_norm(_norm_weight(name, shape.hidden, shape, weights), shape.eps)


def _head_norms(attention: str, shape: Shape, weights: Weights) -> Norm:
    q, k = (_norm_weight(attention + name, shape.heads.dim, shape, weights) for name in ("q_norm", "k_norm"))
    return make_head_norms(q, k, shape.heads, shape.eps)


def _norm_weight(name: str, width: int, shape: Shape, weights: Weights) -> Tensor:
    weight = weights.take(name + ".weight", width)
    return weight.float() + 1.0 if shape.norms_from_one else weight


def _unchanged(x: Activations) -> Activations:
    return x
