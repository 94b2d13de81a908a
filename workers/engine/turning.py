"""Turning vectors so that no number in them stands out, which is what makes them fit 8 bits.

A few channels of a transformer's activations are 10 to 20 times as large as the rest. A scale that holds those leaves the others two or
three bits. An orthogonal turn of the activation, undone by the same turn of the weights, changes no product and spreads each channel over
64 places (QuaRot: Ashkboos and others, 2024, with Hadamard matrices; theirs are merged into the model where it allows that, while this one
is done in front of each matrix, which costs 2 to 4 % of the product and asks nothing of the architecture).
"""

import torch
from torch import Tensor

STAGES = 6


def turn(x: Tensor, stages: int = STAGES) -> Tensor:
    """(…, n) → (…, n), n even: `stages` times the first half plus and minus the second, the results one by one in turn.

    A Hadamard transform in its form of constant geometry (Pease, 1968): each stage is orthogonal but for its factor √2, which is taken out.
    After s stages each number has a share in 2^s others.
    """
    half = x.shape[-1] // 2
    for _ in range(stages):
        a, b = x[..., :half], x[..., half:]
        x = torch.stack((a + b, a - b), -1).flatten(-2)
    return x * 2.0 ** (-stages / 2)
