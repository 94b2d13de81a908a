"""Whatever is allocated, shared and released, every block has as many users as the model counts."""

from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from workers.engine.block_pool import BlockPool

SIZE = 12


class BlockPoolMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.kept: set[int] = set()
        """What is worth keeping, whether in use or not."""
        self.pool = BlockPool(SIZE, self.kept.remove)
        self.holders: list[list[int]] = []

    @rule(count=st.integers(0, SIZE))
    def allocate(self, count: int) -> None:
        if count > self.pool.free:
            return
        blocks = self.pool.allocate(count)
        assert not set(blocks) & {block for held in self.holders for block in held}
        self.holders.append(blocks)

    @precondition(lambda self: self.holders)
    @rule(data=st.data())
    def share(self, data: st.DataObject) -> None:
        held = data.draw(st.sampled_from(self.holders))
        shared = held[: data.draw(st.integers(0, len(held)))]
        self.pool.share(shared)
        self.holders.append(shared)

    @precondition(lambda self: self.holders)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        held = self.holders.pop(data.draw(st.integers(0, len(self.holders) - 1)))
        self.pool.release(held)

    @precondition(lambda self: any(self.holders))
    @rule(data=st.data())
    def keep(self, data: st.DataObject) -> None:
        block = data.draw(st.sampled_from([block for held in self.holders for block in held]))
        self.pool.keep(block)
        self.kept.add(block)

    @precondition(lambda self: self.kept)
    @rule(data=st.data())
    def spoil(self, data: st.DataObject) -> None:
        block, free = data.draw(st.sampled_from(sorted(self.kept))), self.pool.free
        self.pool.spoil(block)
        self.kept.remove(block)
        assert self.pool.free == free

    @precondition(lambda self: self.kept)
    @rule(data=st.data())
    def share_kept(self, data: st.DataObject) -> None:
        block = data.draw(st.sampled_from(sorted(self.kept)))
        self.pool.share([block])
        self.holders.append([block])

    @rule(data=st.data())
    def release_several(self, data: st.DataObject) -> None:
        several = data.draw(st.lists(st.sampled_from(range(len(self.holders))), unique=True)) if self.holders else []
        released = [self.holders[i] for i in several]
        freed, before = self.pool.freed_by(released), self.pool.free
        self.holders = [held for i, held in enumerate(self.holders) if i not in several]
        for held in released:
            self.pool.release(held)
        assert self.pool.free == before + len(freed)

    @invariant()
    def counts_agree(self) -> None:
        self.pool.check()
        users = Counter(block for held in self.holders for block in held)
        assert self.pool.used == len(users)

    def teardown(self) -> None:
        for held in self.holders:
            self.pool.release(held)
        assert self.pool.free == SIZE


TestBlockPool = BlockPoolMachine.TestCase
TestBlockPool.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
