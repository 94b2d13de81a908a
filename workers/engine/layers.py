"""Layers without matrices: root mean square norms and gated activations."""

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from workers.engine.activations import Activations
from workers.engine.attention import Heads
from workers.engine.kernels import has_kernels

Norm = Callable[[Activations], Activations]


def make_norm(weight: Tensor, eps: float) -> Norm:
    """x / rms(x) · weight over the last axis, computed in float32 (Zhang and Sennrich, 2019). The weight multiplies in its own type."""
    if not has_kernels(weight.device, weight.dtype):
        return RmsNorm(weight, eps)
    from workers.engine.cpu import rows  # numba takes a while to import and is of use on CPUs only

    return rows.RmsNorm(weight, eps)


class RmsNorm:
    """See `make_norm`."""

    def __init__(self, weight: Tensor, eps: float) -> None:
        self._weight, self._eps = weight, eps

    def __call__(self, x: Tensor) -> Tensor:
        wide = x.float()
        scale = torch.rsqrt(wide.square().mean(-1, keepdim=True).add_(self._eps))
        return (wide * scale).to(self._weight.dtype).mul_(self._weight).to(x.dtype)


ActivationName = Literal["silu", "gelu_tanh"]
Activation = Callable[[Activations], Activations]


def make_activation(name: ActivationName, device: torch.device, dtype: torch.dtype) -> Activation:
    """(T, 2n) → (T, n): the activation of the first half times the second."""
    if not has_kernels(device, dtype):
        return {"silu": silu_and_mul, "gelu_tanh": gelu_tanh_and_mul}[name]
    from workers.engine.cpu import rows  # as above

    return {"silu": rows.silu_and_mul, "gelu_tanh": rows.gelu_tanh_and_mul}[name]


def silu_and_mul(x: Tensor) -> Tensor:
    gate, up = x.chunk(2, dim=-1)
    return F.silu(gate).mul_(up)


def gelu_tanh_and_mul(x: Tensor) -> Tensor:
    gate, up = x.chunk(2, dim=-1)
    return F.gelu(gate, approximate="tanh").mul_(up)


def make_head_norms(query_weight: Tensor, key_weight: Tensor, heads: Heads, eps: float) -> Norm:
    """The root mean square norm of each query and key head of (T, heads.qkv_width), in place. Heads share weights of shape (head_dim,)."""
    weight = torch.cat((query_weight.expand(heads.query, -1), key_weight.expand(heads.kv, -1)))
    if not has_kernels(weight.device, weight.dtype):
        return HeadNorms(weight, eps)
    from workers.engine.cpu import rows  # as above

    return rows.HeadNorms(weight, eps)


class HeadNorms:
    """See `make_head_norms`."""

    def __init__(self, weight: Tensor, eps: float) -> None:
        """`weight`: (query and key heads, head_dim)."""
        self._weight, self._eps = weight, eps

    def __call__(self, qkv: Tensor) -> Tensor:
        normed, dim = self._weight.shape
        x = qkv.view(len(qkv), -1, dim)[:, :normed]
        x.copy_(F.rms_norm(x, (dim,), None, self._eps) * self._weight)
        return qkv
