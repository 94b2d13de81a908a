"""Linear layers in 8 bits on a CPU: weights with a scale for each output channel, activations with one for each row.

The kernel is fbgemm's, which has one activation scale for a whole call. Rows are scaled to the same range before it and back behind it, so
that a row's result depends on nothing but the row: sums of integers are exact in any order, hence the same alone and in any batch.
"""

import functools
import warnings

import torch
from torch import Tensor

from workers.engine import rows_numba
from workers.engine.turning import STAGES, turn

_GREATEST_WEIGHT = 127


class Int8Linear:
    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        """`weight`: (out, in) float32, `in` even."""
        self._bias = bias
        self._greatest = greatest_activation()
        # The turn in front of the product is not shortened, so the weights are by the whole factor.
        self._weight = _pack(turn(weight) * 2.0 ** (-STAGES / 2))

    def __call__(self, x: Tensor) -> Tensor:
        rows, scales = rows_numba.spread(x, STAGES, self._greatest)
        result = _multiply(rows, self._weight, self._greatest).mul_(scales)
        return result if self._bias is None else result.add_(self._bias)


def fits(weight: Tensor) -> bool:
    """Whether Int8Linear takes this weight."""
    return weight.device.type == "cpu" and weight.shape[1] % 2 == 0 and "fbgemm" in torch.backends.quantized.supported_engines


@functools.cache
def greatest_activation() -> int:
    """127 where the processor sums products of 8 bits in 32, else 63: AVX2 adds pairs of them in 16 bits first, which then saturate.

    Tried rather than looked up: with all weights and activations at their greatest the sum is either right or far from it.
    """
    width, weight = 64, torch.full((32, 64), 1.0)
    result = _multiply(torch.full((8, width), 127.0), _pack(weight), 127)
    return 127 if torch.allclose(result, torch.tensor(127.0 * width), rtol=0.01) else 63


def _pack(weight: Tensor) -> torch.ScriptObject:
    scales = (weight.abs().amax(1) / _GREATEST_WEIGHT).clamp_(min=1e-30)
    integers = torch.round(weight / scales[:, None]).to(torch.int8)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*quantize_per_channel.*", category=UserWarning)
        quantized = torch._make_per_channel_quantized_tensor(integers, scales.double(), torch.zeros(len(scales), dtype=torch.long), 0)
    packed: torch.ScriptObject = torch.ops.quantized.linear_prepack(quantized, None)
    return packed


def _multiply(rows: Tensor, weight: torch.ScriptObject, greatest: int) -> Tensor:
    """Rows of (T, in), rounded to whole numbers of at most ±`greatest`, times the weight: (T, out) float32."""
    result: Tensor = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32(rows, 1.0, greatest + 1, weight)
    return result
