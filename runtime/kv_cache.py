"""KV memory as blocks with reference counts, and the block tables of sequences.

A block is ``block_size`` slots. A sequence's table lists its blocks in order: the token at position
``p`` lives in block ``table[p // block_size]`` at offset ``p % block_size``. Blocks that are full
and never written again may be held by several; a block that is written has one owner. So nothing is
ever copied: who shares the beginning of a context computes the rest into blocks of its own.

A block may have a name, which says what it holds, and is found by it until it is used for something
else; that nobody holds it does not matter. Free blocks without a name are used first. Those with a
name stand in the order in which they were freed, last block of a sequence first, and any of them
can be taken out in O(1): the next to be used is the least recently used, and of a sequence's blocks
the beginning is kept longest.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from graphopt.errors import CapacityError, GraphoptError

I32 = npt.NDArray[np.int32]


def blocks_for(tokens: int, block_size: int) -> int:
    """How many blocks hold ``tokens`` tokens."""
    return -(-tokens // block_size)


class BlockPool:
    """A fixed number of blocks; each is free, or held by as many as its reference count says.

    Args:
        num_blocks: blocks in the pool, at least 1.
        block_size: KV slots in a block, at least 1.

    Raises:
        CapacityError: there would be no block.
    """

    def __init__(self, num_blocks: int, block_size: int) -> None:
        if num_blocks < 1 or block_size < 1:
            raise CapacityError(
                "the block pool is empty",
                got=f"{num_blocks} blocks of {block_size} tokens",
                expected="at least one block of one token",
                next="raise kv_cache_memory",
            )
        self.num_blocks = num_blocks
        self.block_size = block_size
        self._references = [0] * num_blocks
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(range(num_blocks))
        self._names: dict[int, bytes] = {}
        self._named: dict[bytes, int] = {}

    @property
    def num_free(self) -> int:
        """Blocks that nobody holds."""
        return len(self._free)

    @property
    def num_used(self) -> int:
        """Blocks that somebody holds."""
        return self.num_blocks - len(self._free)

    def num_free_of(self, blocks: Iterable[int]) -> int:
        """How many of ``blocks`` nobody holds."""
        return sum(self._references[block] == 0 for block in blocks)

    def references(self, block: int) -> int:
        """How many hold ``block``."""
        return self._references[block]

    @property
    def num_named(self) -> int:
        """Blocks that can be found by a name."""
        return len(self._named)

    def find(self, name: bytes) -> int | None:
        """The block with this name, held or free; None if there is none."""
        return self._named.get(name)

    def allocate(self, count: int) -> list[int]:
        """Take ``count`` free blocks to write to, those worth least first; they lose their names.

        Raises:
            CapacityError: fewer are free; nothing was taken.
        """
        if count > len(self._free):
            raise CapacityError(
                "not enough free KV blocks", got=len(self._free), expected=f"{count} blocks"
            )
        blocks = [self._free.popitem(last=False)[0] for _ in range(count)]
        for block in blocks:
            self._references[block] = 1
        self.forget(blocks)
        return blocks

    def hold(self, blocks: Iterable[int]) -> None:
        """Hold ``blocks`` once more, to read them: such as others hold, or such as have a name.

        Raises:
            GraphoptError: one of them is free and has no name, so its contents may be gone.
        """
        wanted = list(blocks)
        for block in wanted:
            if self._references[block] < 1 and block not in self._names:
                raise GraphoptError("a free KV block cannot be shared", got=f"block {block}")
        for block in wanted:
            if self._references[block] == 0:
                del self._free[block]
            self._references[block] += 1

    def free(self, blocks: Iterable[int]) -> None:
        """Let go of ``blocks``, given in the order of their table.

        Raises:
            GraphoptError: a block is let go of more often than it is held.
        """
        for block in reversed(list(blocks)):
            if self._references[block] < 1:
                raise GraphoptError("a KV block is freed twice", got=f"block {block}")
            self._references[block] -= 1
            if self._references[block] == 0:
                self._free[block] = None
                self._free.move_to_end(block, last=block in self._names)

    def name(self, block: int, name: bytes) -> None:
        """Let a full block that somebody holds be found, in place of one that held the same.

        Raises:
            GraphoptError: nobody holds the block, so it may hold anything.
        """
        if self._references[block] < 1:
            raise GraphoptError("a free KV block cannot be named", got=f"block {block}")
        same = self._named.get(name)
        if same is not None:
            self.forget([same])
        self._names[block] = name
        self._named[name] = block

    def forget(self, blocks: Iterable[int]) -> None:
        """Take the names of ``blocks`` away; who holds them keeps them."""
        for block in blocks:
            name = self._names.pop(block, None)
            if name is not None:
                del self._named[name]
                if block in self._free:
                    self._free.move_to_end(block, last=False)

    def check(self, tables: Iterable[Iterable[int]]) -> None:
        """Demand that ``tables``, of all who hold blocks, explain every reference count.

        Raises:
            GraphoptError: a block is leaked, freed while held, or listed twice in one table; or the
                names are not one to one; or a free block with a name is used before one without.
        """
        expected: Counter[int] = Counter()
        for table in tables:
            blocks = list(table)
            if len(set(blocks)) != len(blocks):
                raise GraphoptError("a block table lists a block twice", got=blocks)
            expected.update(blocks)
        for block, count in enumerate(self._references):
            if count != expected[block]:
                raise GraphoptError(
                    "a KV block's reference count is wrong",
                    where=f"block {block}",
                    got=count,
                    expected=f"{expected[block]}, the number of tables that list it",
                )
            if (count == 0) != (block in self._free):
                raise GraphoptError("the free list is wrong", where=f"block {block}", got=count)
        if {name: block for block, name in self._names.items()} != self._named:
            raise GraphoptError("the names of KV blocks are not one to one", got=self._names)
        named = [block in self._names for block in self._free]
        if named != sorted(named):
            raise GraphoptError("a KV block with a name is used before one without", got=named)


class BlockTable:
    """The blocks of one sequence, as an array, so that a step's tables are filled by copying."""

    __slots__ = ("_blocks", "_count")

    def __init__(self) -> None:
        self._blocks: I32 = np.empty(8, dtype=np.int32)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> int:
        if not 0 <= index < self._count:
            raise IndexError(index)
        return int(self._blocks[index])

    @property
    def array(self) -> I32:
        """The blocks, i32[P]; a view that the next change makes stale."""
        return self._blocks[: self._count]

    def tolist(self) -> list[int]:
        """The blocks, in order."""
        blocks: list[int] = self.array.tolist()
        return blocks

    def extend(self, blocks: list[int]) -> None:
        """Append ``blocks``."""
        count = self._count + len(blocks)
        if count > len(self._blocks):
            grown = np.empty(max(count, 2 * len(self._blocks)), dtype=np.int32)
            grown[: self._count] = self.array
            self._blocks = grown
        self._blocks[self._count : count] = blocks
        self._count = count

    def clear(self) -> list[int]:
        """Forget all blocks, and return them in order."""
        blocks = self.tolist()
        self._count = 0
        return blocks
