"""What passes from layer to layer."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

Activations = Any
"""(T, n) numbers: a Tensor, and where there are kernels of our own an array. Every layer is one there, they take arrays, and to make an
array of a tensor and the other way round takes as long as a small layer's sums."""


def tensor_of(x: Activations) -> Tensor:
    return torch.from_numpy(x) if isinstance(x, np.ndarray) else x
