"""The KV cache: pages of keys and values, and for each slot the table of the pages that its sequence holds."""

from collections.abc import Sequence

import torch


class KvCache:
    """Fixed for life. `keys[l]` and `values[l]` of layer l have the shape (blocks, kv_heads, block_size, head_dim): one head's part of a
    block lies in one piece, which is what an attention kernel reads at a time.
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
        # Zeros, since a kernel may multiply what lies in unwritten places by a weight of zero. The system hands out pages on first touch.
        shape = (blocks, kv_heads, block_size, head_dim)
        self.keys = [torch.zeros(shape, device=device, dtype=dtype) for _ in range(layers)]
        self.values = [torch.zeros(shape, device=device, dtype=dtype) for _ in range(layers)]
        self.tables = torch.zeros((slots, blocks_per_slot), device=device, dtype=torch.int32)

    @staticmethod
    def block_bytes(*, layers: int, block_size: int, kv_heads: int, head_dim: int, dtype: torch.dtype) -> int:
        """Memory of one block in all layers, keys and values."""
        return 2 * layers * block_size * kv_heads * head_dim * dtype.itemsize

    def assign(self, slot: int, first_block: int, blocks: Sequence[int]) -> None:
        """Entries [first_block, first_block + len(blocks)) of the slot's table."""
        self.tables[slot, first_block : first_block + len(blocks)] = torch.tensor(blocks, dtype=torch.int32, device=self.tables.device)
