"""The KV cache: what the blocks hold, and for each slot the table of the blocks that its sequence has.

A block is a number, and room for so many tokens in every layer. A page is what of it an attention reads: one layer's keys, or values.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


class KvCache:
    """Fixed for life. `values[l]` of layer l has the shape (blocks, kv_heads, block_size, head_dim), `keys[l]` that of
    (blocks, kv_heads, head_dim, block_size): one head's part of a block is a matrix in one piece, as an attention multiplies with it.
    """

    def __init__(
        self,
        *,
        layers: int,
        blocks: int,
        block_size: int,
        kv_heads: int,
        head_dim: int,
        slots: int,
        blocks_per_slot: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.block_size = block_size
        self._pages = _zeros((2, layers, blocks, kv_heads, block_size, head_dim), device, dtype)
        self.keys = [pages.view(blocks, kv_heads, head_dim, block_size) for pages in self._pages[0]]
        self.values = list(self._pages[1])
        self.tables = torch.zeros((slots, blocks_per_slot), device=device, dtype=torch.int32)

    @staticmethod
    def block_bytes(*, layers: int, block_size: int, kv_heads: int, head_dim: int, dtype: torch.dtype) -> int:
        """Memory of one block in all layers, keys and values."""
        return 2 * layers * block_size * kv_heads * head_dim * dtype.itemsize

    def assign(self, slot: int, first_block: int, blocks: Sequence[int]) -> None:
        """Entries [first_block, first_block + len(blocks)) of the slot's table."""
        self.tables[slot, first_block : first_block + len(blocks)] = torch.tensor(blocks, dtype=torch.int32, device=self.tables.device)

    def clear(self, blocks: Sequence[int]) -> None:
        """Forget what an earlier owner wrote: a kernel may multiply what lies behind a sequence's end by a weight of zero, and zero times
        a number that is none is none.
        """
        self._pages.index_fill_(2, torch.tensor(blocks, device=self._pages.device), 0)


def _zeros(shape: tuple[int, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    """On a CPU numpy's: the system hands out their pages on first touch, where torch writes them all, which takes a second for each GB."""
    if device.type != "cpu":
        return torch.zeros(shape, device=device, dtype=dtype)
    return torch.from_numpy(np.zeros(math.prod(shape) * dtype.itemsize, np.uint8)).view(dtype).view(shape)
