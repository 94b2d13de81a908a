import pytest

from workers.engine.block_pool import BlockPool


def test_blocks_are_distinct_and_come_back() -> None:
    pool = BlockPool(4)
    blocks = pool.allocate(3)
    assert len(set(blocks)) == 3
    assert (pool.free, pool.used) == (1, 3)
    pool.release(blocks)
    assert pool.free == 4
    pool.check()


def test_a_shared_block_is_free_when_its_last_user_lets_go() -> None:
    pool = BlockPool(2)
    blocks = pool.allocate(1)
    pool.share(blocks)
    pool.release(blocks)
    assert pool.free == 1
    pool.release(blocks)
    assert pool.free == 2
    pool.check()


def test_the_block_freed_last_is_given_out_first() -> None:
    pool = BlockPool(8)
    blocks = pool.allocate(4)
    pool.release(blocks)
    assert pool.allocate(4) == blocks


def test_misuse_is_an_error() -> None:
    pool = BlockPool(2)
    with pytest.raises(ValueError, match="3 blocks wanted, 2 free"):
        pool.allocate(3)
    with pytest.raises(ValueError, match="block 1 is free already"):
        pool.release([1])
    with pytest.raises(ValueError, match="block 1 is blank"):
        pool.share([1])
    with pytest.raises(ValueError, match="block 1 is free"):
        pool.keep(1)
    with pytest.raises(ValueError, match="at least one block"):
        BlockPool(0)
    pool.check()


def test_what_is_worth_keeping_is_given_away_last_and_the_oldest_first() -> None:
    forgotten: list[int] = []
    pool = BlockPool(4, forgotten.append)
    first, second, third = pool.allocate(3)
    for block in (first, second):
        pool.keep(block)
    pool.release([second])
    pool.release([first, third])
    assert pool.free == 4
    pool.allocate(2)
    assert forgotten == []
    assert pool.allocate(1) == [second]
    assert forgotten == [second]
    pool.check()


def test_a_kept_block_can_be_used_again() -> None:
    pool = BlockPool(2)
    [block] = pool.allocate(1)
    pool.keep(block)
    pool.release([block])
    pool.share([block])
    assert (pool.users(block), pool.free) == (1, 1)
    pool.check()
