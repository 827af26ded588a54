"""The block pool against a model of itself, and each invariant shown to be checked."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphopt.errors import CapacityError, GraphoptError
from graphopt.runtime.kv_cache import BlockPool, BlockTable, blocks_for


@given(
    operations=st.lists(
        st.tuples(st.sampled_from(["allocate", "hold", "free"]), st.integers(0, 5)), max_size=60
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
        elif holders and operation == "hold":
            held = holders[number % len(holders)]
            pool.hold(held[:number])
            holders.append(held[:number])
        elif holders:
            pool.free(holders.pop(number % len(holders)))
        pool.check(holders)
        assert pool.num_used + pool.num_free == 7


def test_what_nobody_can_find_is_used_first_and_then_the_least_recently_used():
    pool = BlockPool(6, 1)
    first, second = pool.allocate(3), pool.allocate(2)
    for block in (*first[:2], *second):
        pool.name(block, b"%d" % block)
    pool.free(second)
    pool.free(first)
    order = [first[2], 5, *reversed(second), *reversed(first[:2])]
    assert [pool.allocate(1)[0] for _ in range(6)] == order


def test_a_name_is_found_until_its_block_is_used_for_something_else():
    pool = BlockPool(3, 1)
    held = pool.allocate(2)
    pool.name(held[1], b"a")
    pool.name(held[0], b"a")  # the same again: what was used last is what is found
    assert (pool.find(b"a"), pool.find(b"b"), pool.num_named) == (held[0], None, 1)
    pool.free(held)
    assert pool.find(b"a") == held[0]
    assert pool.num_free_of(held) == 2
    pool.hold([held[0]])
    assert (pool.references(held[0]), pool.num_free) == (1, 2)
    pool.check([[held[0]]])
    assert held[0] not in pool.allocate(2)
    assert pool.find(b"a") == held[0]
    pool.free([held[0]])
    assert pool.allocate(1) == [held[0]]
    assert pool.find(b"a") is None


def test_what_is_forgotten_is_not_found_and_used_first():
    pool = BlockPool(3, 1)
    held = pool.allocate(3)
    for block in held:
        pool.name(block, b"%d" % block)
    pool.free(held[:2])
    pool.forget([held[0], held[2]])
    pool.check([held[2:]])
    assert [pool.find(b"%d" % block) for block in held] == [None, held[1], None]
    assert pool.allocate(2) == held[:2]


def test_misuse_is_an_error():
    pool = BlockPool(2, 1)
    (block,) = pool.allocate(1)
    pool.free([block])
    with pytest.raises(GraphoptError, match="freed twice"):
        pool.free([block])
    with pytest.raises(GraphoptError, match="cannot be shared"):
        pool.hold([block])
    with pytest.raises(GraphoptError, match="cannot be named"):
        pool.name(block, b"a")


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


def test_check_finds_names_that_are_wrong():
    pool = BlockPool(4, 1)
    held = pool.allocate(2)
    pool.name(held[0], b"a")
    pool.name(held[1], b"b")
    pool._free.move_to_end(3)
    pool.free(held)
    pool.check([])
    pool._free.move_to_end(3)
    with pytest.raises(GraphoptError, match="before one without"):
        pool.check([])
    pool._free.move_to_end(3, last=False)
    del pool._named[b"a"]
    with pytest.raises(GraphoptError, match="one to one"):
        pool.check([])


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
