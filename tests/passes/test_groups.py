"""Groups merge only where nothing has to run between them, and come out in a running order."""

from itertools import combinations
from random import Random

import networkx
import pytest

from graphopt.ir.builder import GraphBuilder
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph
from graphopt.ir.types import LayerState, StateType, TensorType
from graphopt.passes.fusion_legal import family_of
from graphopt.passes.groups import Group, Groups

X = TensorType(DType.F32, (4, 6))


def groups_of(graph: Graph) -> Groups:
    return Groups(graph, {node: f for node in graph.nodes if (f := family_of(graph, node))})


def diamond() -> Graph:
    """0 is read by 1 and 2, and 3 reads those."""
    b = GraphBuilder("g")
    top = b.one("neg", [b.input("x", X)])
    left, right = b.one("exp", [top]), b.one("sin", [top])
    return b.finish([b.one("add", [left, right])])


def random_graph(seed: int, size: int = 14) -> Graph:
    """Additions and changes of shape at random."""
    rng = Random(seed)
    b = GraphBuilder("g")
    values = [b.input("x", X)]
    for _ in range(size):
        recent = values[-6:]
        if rng.random() < 0.3:
            turned = b.one("reshape", [rng.choice(recent)], {"shape": (6, 4)})
            values.append(b.one("reshape", [turned], {"shape": (4, 6)}))
        else:
            values.append(b.one("add", [rng.choice(recent), rng.choice(recent)]))
    return b.finish([values[-1], values[-2]])


def test_shape_changes_belong_to_no_group() -> None:
    b = GraphBuilder("g")
    x = b.input("x", X)
    moved = b.one("reshape", [b.one("neg", [x])], {"shape": (24,)})
    graph = b.finish([b.one("exp", [moved])])
    groups = groups_of(graph)
    assert [group.nodes for group in groups] == [[0], [2]]
    assert groups.find(graph.nodes[1]) is None
    assert groups.maker(moved) is groups.of(graph.nodes[0])
    assert groups.with_aliases([2]) == (1, 2)
    assert groups.with_aliases([0]) == (0,)


def test_a_third_group_is_in_the_way() -> None:
    graph = diamond()
    groups = groups_of(graph)
    top, left, right, bottom = groups
    assert groups.in_the_way(top, bottom) in (left, right)
    assert groups.in_the_way(bottom, top) in (left, right)
    assert groups.in_the_way(top, left) is None
    assert groups.in_the_way(left, right) is None
    merged = groups.merge(left, right, "pointwise", None)
    assert groups.in_the_way(top, bottom) is merged
    whole = groups.merge(groups.merge(top, merged, "pointwise", None), bottom, "pointwise", None)
    assert list(groups) == [whole]
    assert whole.nodes == [0, 1, 2, 3]
    assert (whole.before, whole.after) == (set(), set())


def test_state_is_overwritten_after_everyone_has_read_it() -> None:
    """Even where the keys that are written were there long before."""
    tokens, sequences = 3, 1
    b = GraphBuilder("g")
    kv = b.input("kv", StateType("kv", (LayerState(1, 4, 4, DType.F32),)))
    k, q = (b.input(name, TensorType(DType.F32, (tokens, 1, 4))) for name in "kq")
    slots = b.input("slots", TensorType(DType.I64, (tokens,)))
    sizes = {"starts": (sequences + 1,), "lengths": (sequences,), "tables": (sequences, 1)}
    context = [b.input(name, TensorType(DType.I32, shape)) for name, shape in sizes.items()]
    early = b.one("neg", [k])
    kv = b.one("kv_write", [kv, k, k, slots], {"layer": 0})
    read = b.one("attention", [q, kv, *context], {"layer": 0, "scale": 0.5})
    b.one("kv_write", [kv, early, early, slots], {"layer": 0})
    groups = groups_of(b.finish([read]))
    first, write, attention, again = groups
    assert (first.first, again.before) == (0, {first, write, attention})
    merged = groups.merge(first, again, "heads", None)
    assert groups.running_order() == (write, attention, merged)


def as_networkx(groups: Groups) -> "networkx.DiGraph[Group]":
    found: networkx.DiGraph[Group] = networkx.DiGraph()
    found.add_nodes_from(groups)
    found.add_edges_from((group, later) for group in groups for later in group.after)
    return found


@pytest.mark.parametrize("seed", range(30))
def test_merging_whatever_is_allowed_never_makes_a_cycle(seed: int) -> None:
    """What is in the way is what networkx says; the order is one in which everything is ready."""
    groups, rng = groups_of(random_graph(seed)), Random(seed)
    for _ in range(12):
        pairs = list(combinations(groups, 2))
        if not pairs:
            break
        one, other = rng.choice(pairs)
        paths = networkx.all_simple_paths(as_networkx(groups), one, other)
        paths_back = networkx.all_simple_paths(as_networkx(groups), other, one)
        longer = any(len(path) > 2 for path in (*paths, *paths_back))
        assert (groups.in_the_way(one, other) is not None) == longer
        if not longer:
            groups.merge(one, other, "pointwise", None)
        assert networkx.is_directed_acyclic_graph(as_networkx(groups))
    order = groups.running_order()
    assert len(order) == len(set(order)) == len(list(groups))
    place = {group: number for number, group in enumerate(order)}
    assert all(place[group] < place[later] for group in order for later in group.after)
