"""Blocks of the KV cache, counted by how many sequences use them. Knows numbers only; the tensors are `kv_cache.py`'s. Torch-free."""

from collections.abc import Iterable, Sequence


class BlockPool:
    """`size` blocks, each free (no user) or in use (one or more). A block comes back when its last user lets go of it."""

    def __init__(self, size: int) -> None:
        if size < 1:
            raise ValueError(f"a block pool needs at least one block, got {size}")
        self._users = [0] * size
        # A stack: the block freed last is the one most likely still in the processor's cache.
        self._free = list(range(size - 1, -1, -1))

    @property
    def size(self) -> int:
        return len(self._users)

    @property
    def free(self) -> int:
        return len(self._free)

    @property
    def used(self) -> int:
        return self.size - self.free

    def allocate(self, count: int) -> list[int]:
        """`count` free blocks, with one user each. Raises ValueError if there are not as many: ask `free` first."""
        if count > len(self._free):
            raise ValueError(f"{count} blocks wanted, {len(self._free)} free")
        blocks = [self._free.pop() for _ in range(count)]
        for block in blocks:
            self._users[block] = 1
        return blocks

    def share(self, blocks: Iterable[int]) -> None:
        """One more user for each of these blocks, which must be in use."""
        for block in blocks:
            if self._users[block] == 0:
                raise ValueError(f"block {block} is free")
            self._users[block] += 1

    def release(self, blocks: Sequence[int]) -> None:
        """One user less for each of these blocks."""
        for block in reversed(blocks):
            if self._users[block] == 0:
                raise ValueError(f"block {block} is free already")
            self._users[block] -= 1
            if self._users[block] == 0:
                self._free.append(block)

    def check(self) -> None:
        """Raises AssertionError unless every block is either free, once, or in use."""
        free = set(self._free)
        assert len(free) == len(self._free), "a block is free twice"
        assert all((users == 0) == (block in free) for block, users in enumerate(self._users)), "free blocks and unused blocks differ"
