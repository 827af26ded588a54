"""The block pool against a model of itself, and each invariant shown to be checked."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphopt.errors import CapacityError, GraphoptError
from graphopt.runtime.kv_cache import BlockPool, BlockTable, blocks_for


@given(
    operations=st.lists(
        st.tuples(st.sampled_from(["allocate", "share", "free"]), st.integers(0, 5)), max_size=60
    )
)
def test_the_pool_agrees_with_a_list_of_holders(operations):
    pool = BlockPool(7, 4)
    holders: list[list[int]] = []
    for operation, number in operations:
        if operation == "allocate":
            free = 7 - len({block for held in holders for block in held})
            assert pool.num_free == free
            if number > free:
                with pytest.raises(CapacityError):
                    pool.allocate(number)
            else:
                new = pool.allocate(number)
                assert len(set(new)) == number
                assert not {block for held in holders for block in held} & set(new)
                holders.append(new)
        elif holders and operation == "share":
            held = holders[number % len(holders)]
            pool.share(held[:number])
            holders.append(held[:number])
        elif holders:
            pool.free(holders.pop(number % len(holders)))
        pool.check(holders)
        assert pool.num_used + pool.num_free == 7


def test_blocks_are_taken_in_the_order_in_which_they_were_freed_last_block_first():
    pool = BlockPool(4, 1)
    first = pool.allocate(3)
    pool.free(first)
    assert pool.allocate(4) == [3, *reversed(first)]


def test_misuse_is_an_error():
    pool = BlockPool(2, 1)
    (block,) = pool.allocate(1)
    pool.free([block])
    with pytest.raises(GraphoptError, match="freed twice"):
        pool.free([block])
    with pytest.raises(GraphoptError, match="cannot be shared"):
        pool.share([block])


def test_an_empty_pool_is_refused():
    with pytest.raises(CapacityError, match="empty"):
        BlockPool(0, 16)
    with pytest.raises(CapacityError):
        BlockPool(4, 0)


def test_check_finds_leaks_early_frees_and_doubles():
    pool = BlockPool(4, 1)
    held = pool.allocate(2)
    pool.check([held])
    with pytest.raises(GraphoptError, match="reference count"):
        pool.check([])
    with pytest.raises(GraphoptError, match="reference count"):
        pool.check([held, held[:1]])
    with pytest.raises(GraphoptError, match="twice"):
        pool.check([[held[0], held[0]]])
    pool._free[held[0]] = None
    with pytest.raises(GraphoptError, match="free list"):
        pool.check([held])


@pytest.mark.parametrize(
    ("tokens", "size", "expected"), [(0, 4, 0), (1, 4, 1), (4, 4, 1), (5, 4, 2)]
)
def test_blocks_for(tokens, size, expected):
    assert blocks_for(tokens, size) == expected


@given(parts=st.lists(st.lists(st.integers(0, 1000), max_size=9), max_size=9))
def test_a_table_is_a_list(parts):
    table, expected = BlockTable(), []
    for part in parts:
        table.extend(part)
        expected += part
        assert table.tolist() == expected
        assert len(table) == len(expected)
        assert table.array.tolist() == expected
    if expected:
        assert table[len(expected) - 1] == expected[-1]
    with pytest.raises(IndexError):
        table[len(expected)]
    assert table.clear() == expected
    assert len(table) == 0
