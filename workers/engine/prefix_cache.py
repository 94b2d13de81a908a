"""Which blocks hold which beginnings of sequences, so that a sequence that begins alike need not compute it again. Torch-free.

A tree of full blocks: a node is known by its parent and the tokens of its block, the children of the root by a salt. Looking one up
compares the tokens themselves, not only their hash, and the numbers of nodes are never used again: a match is the same text under the same
salt, whatever hashes collide. (Tenants have salts of their own: how long a prompt takes must not tell one what another has asked.)

A block is given away only when nobody uses it, oldest first, and a sequence lets go of its last block first: so children go before their
parents. One that is left behind nevertheless, since two sequences computed its parent at the same time and the other's copy was entered,
or since its parent was removed, is found by nobody and leaves when it is the oldest.
"""

from collections.abc import Sequence
from itertools import count
from typing import NamedTuple

_Key = tuple[int | str, tuple[int, ...]]
"""Parent, or the salt for a first block, and the tokens of the block."""


class Node(NamedTuple):
    number: int
    block: int


class PrefixCache:
    def __init__(self, block_size: int) -> None:
        self._block_size = block_size
        self._nodes: dict[_Key, Node] = {}
        self._key_of: dict[int, _Key] = {}
        self._numbers = count()

    def find(self, salt: str, tokens: Sequence[int]) -> list[Node]:
        """The nodes of the longest known beginning, without the block of the last token: that one is to be computed, for its logits."""
        found: list[Node] = []
        parent: int | str = salt
        size = self._block_size
        for start in range(0, (len(tokens) - 1) // size * size, size):
            node = self._nodes.get((parent, tuple(tokens[start : start + size])))
            if node is None:
                break
            found.append(node)
            parent = node.number
        return found

    def enter(self, parent: int | str, tokens: Sequence[int], block: int) -> Node:
        """`block` holds these tokens, behind what `parent` stands for. Returns the node of whichever block was entered first."""
        key = (parent, tuple(tokens))
        node = self._nodes.get(key)
        if node is None:
            node = self._nodes[key] = Node(next(self._numbers), block)
            self._key_of[block] = key
        return node

    def forget(self, block: int) -> None:
        """The block is given away."""
        del self._nodes[self._key_of.pop(block)]

    def remove(self, parent: int | str, tokens: Sequence[int]) -> int | None:
        """The block that holds these tokens behind `parent` is not to be found any more, nor what lies behind it. Returns it, if it was."""
        node = self._nodes.pop((parent, tuple(tokens)), None)
        if node is None:
            return None
        del self._key_of[node.block]
        return node.block

    def check(self) -> None:
        """Raises AssertionError unless each block has one node and each node one block."""
        assert {node.block: key for key, node in self._nodes.items()} == self._key_of
