"""Linear layers in 8 bits on a CPU: weights with a scale for each output channel, activations with one for each row.

A few channels of a transformer's activations are 10 to 20 times as large as the rest; a scale that holds those leaves the others two or
three bits. So rows and weights are turned by the same orthogonal matrix first, which changes no product and spreads each channel over 256
places (QuaRot: Ashkboos and others, 2024; theirs is merged into the model where its form allows that, this one is done in front of each
matrix and asks nothing of the architecture).

The kernel is fbgemm's, which has one activation scale for a whole call. Rows are scaled to the same range before it and back behind it, so
that a row's result depends on nothing but the row: sums of integers are exact in any order, hence the same alone and in any batch.
"""

import functools
import warnings

import torch
from torch import Tensor

from workers.engine import rows_numba

_MOST_TURNS = 8
_GREATEST_WEIGHT = 127


class Int8Linear:
    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        """`weight`: (out, in) float32 for which `fits`."""
        self._bias = bias
        self._greatest = greatest_activation()
        self._turns = _turns(weight.shape[1])
        rows, scales = rows_numba.spread(weight.contiguous(), self._turns, _GREATEST_WEIGHT)
        # Both factors of a product are turned, each of them longer by √2 with every turn.
        self._weight = _pack(rows, scales[:, 0] * 2.0**-self._turns)

    def __call__(self, x: Tensor) -> Tensor:
        rows, scales = rows_numba.spread(x, self._turns, self._greatest)
        result = _multiply(rows, self._weight, self._greatest).mul_(scales)
        return result if self._bias is None else result.add_(self._bias)


def fits(weight: Tensor) -> bool:
    """Whether Int8Linear takes this weight, on this machine."""
    return weight.device.type == "cpu" and weight.shape[1] % 2 == 0 and "fbgemm" in torch.backends.quantized.supported_engines


def _turns(width: int) -> int:
    """An even number, and few enough that what was spread over a whole row is not gathered again."""
    return min(_MOST_TURNS, (width.bit_length() - 1) // 2 * 2)


@functools.cache
def greatest_activation() -> int:
    """127 where the processor sums products of 8 bits in 32, else 86: AVX2 adds pairs of them in 16 bits first, which then saturate.

    Activations are stored as 0 … 2 · greatest. With 86 a pair of weights of 127 saturates only if both activations exceed half the
    greatest of their row to the same side, which the turns leave hardly ever, and then by little. With 63 it never does, at twice the
    noise.

    Tried rather than looked up: with all weights and activations at their greatest the sum is either right or far from it.
    """
    full = torch.full((32, 64), 127.0)
    result = _multiply(full, _pack(full, torch.full((32,), 1 / 127)), 127)
    return 127 if torch.allclose(result, torch.tensor(127.0 * 64), rtol=0.01) else 86


def _pack(rows: Tensor, scales: Tensor) -> torch.ScriptObject:
    """Rows of whole numbers, about, and what one of each is worth."""
    integers, zeros = rows.round().to(torch.int8), torch.zeros(len(rows), dtype=torch.long)
    with warnings.catch_warnings():
        # The tensor type is deprecated; the operator that packs it has no other way in.
        warnings.filterwarnings("ignore", message=".*quantize_per_channel.*", category=UserWarning)
        quantized = torch._make_per_channel_quantized_tensor(integers, scales.double(), zeros, 0)
    packed: torch.ScriptObject = torch.ops.quantized.linear_prepack(quantized, None)
    return packed


def _multiply(rows: Tensor, weight: torch.ScriptObject, greatest: int) -> Tensor:
    """Rows of (T, in), rounded to whole numbers of at most ±`greatest`, times the weight: (T, out) float32."""
    result: Tensor = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32(rows, 1.0, greatest + 1, weight)
    return result
