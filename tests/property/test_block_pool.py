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
        self.pool = BlockPool(SIZE)
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
