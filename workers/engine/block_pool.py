"""Blocks of the KV cache, counted by how many sequences use them. Knows numbers only; the tensors are `kv_cache.py`'s. Torch-free."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence


class BlockPool:
    """`size` blocks, each in use (one user or more), kept (none, but what it holds may be wanted again) or blank.

    Kept and blank blocks are free: a kept one is given away when no blank one is left, the one first that nobody has used for longest.
    """

    def __init__(self, size: int, forget: Callable[[int], None] | None = None) -> None:
        """`forget` is told of each kept block that is given away."""
        if size < 1:
            raise ValueError(f"a block pool needs at least one block, got {size}")
        self._users = [0] * size
        # A stack: the block freed last is the one most likely still in the processor's cache.
        self._blank = list(range(size - 1, -1, -1))
        self._worth_keeping: set[int] = set()
        self._kept: dict[int, None] = {}
        """In the order in which their last users let go of them."""
        self._forget = forget

    @property
    def size(self) -> int:
        return len(self._users)

    @property
    def free(self) -> int:
        return len(self._blank) + len(self._kept)

    @property
    def used(self) -> int:
        return self.size - self.free

    def users(self, block: int) -> int:
        return self._users[block]

    def allocate(self, count: int) -> list[int]:
        """`count` free blocks, with one user each. Raises ValueError if there are not as many: ask `free` first."""
        if count > self.free:
            raise ValueError(f"{count} blocks wanted, {self.free} free")
        blocks = [self._blank.pop() if self._blank else self._give_up_oldest() for _ in range(count)]
        for block in blocks:
            self._users[block] = 1
        return blocks

    def keep(self, block: int) -> None:
        """What this block, which is in use, holds is worth keeping when its last user lets go of it."""
        if self._users[block] == 0:
            raise ValueError(f"block {block} is free")
        self._worth_keeping.add(block)

    def spoil(self, block: int) -> None:
        """What this block holds is worth nothing, whoever may still use it."""
        self._worth_keeping.discard(block)
        if block in self._kept:
            del self._kept[block]
            self._blank.append(block)

    def share(self, blocks: Iterable[int]) -> None:
        """One more user for each of these blocks, which must be in use or kept."""
        for block in blocks:
            if self._users[block] == 0:
                if block not in self._kept:
                    raise ValueError(f"block {block} is blank")
                del self._kept[block]
            self._users[block] += 1

    def release(self, blocks: Sequence[int]) -> None:
        """One user less for each of these blocks. The last of them is taken for the least useful."""
        for block in reversed(blocks):
            if self._users[block] == 0:
                raise ValueError(f"block {block} is free already")
            self._users[block] -= 1
            if self._users[block] == 0:
                if block in self._worth_keeping:
                    self._kept[block] = None
                else:
                    self._blank.append(block)

    def freed_by(self, releases: Iterable[Sequence[int]]) -> set[int]:
        """The blocks that nobody would use any more after these releases."""
        counts = Counter(block for blocks in releases for block in blocks)
        return {block for block, count in counts.items() if self._users[block] == count}

    def check(self) -> None:
        """Raises AssertionError unless every block is in use, kept or blank, and only one of them."""
        blank = set(self._blank)
        assert len(blank) == len(self._blank), "a block is blank twice"
        assert not blank & self._kept.keys(), "a block is both kept and blank"
        assert not blank & self._worth_keeping, "a blank block is worth keeping"
        assert self._kept.keys() <= self._worth_keeping, "a block is kept that is not worth it"
        free = blank | self._kept.keys()
        assert all((users == 0) == (block in free) for block, users in enumerate(self._users)), "free blocks and unused blocks differ"

    def _give_up_oldest(self) -> int:
        block = next(iter(self._kept))
        del self._kept[block]
        self._worth_keeping.remove(block)
        if self._forget is not None:
            self._forget(block)
        return block
