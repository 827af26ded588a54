"""Layers are found, told apart where they differ, and one kind where they do not."""

from __future__ import annotations

from graphopt.ir.builder import GraphBuilder
from graphopt.ir.graph import Graph, SourceLocation
from graphopt.report import groups as module
from graphopt.report.groups import group_items, kinds_of, layer_offset
from graphopt.report.items import node_items

from .models import T, compiled, decoder, tensor


def groups_of(graph: Graph) -> tuple[module.Group, ...]:
    return group_items(graph, node_items(graph))


def chain(*modules: str, ops: str = "neg") -> Graph:
    """Operators one after the other, each from a module."""
    b = GraphBuilder("chain")
    x = b.input("x", tensor(T, 4))
    for name in modules:
        x = b.one(ops, [x], loc=SourceLocation("f.py", 1, name))
    return b.finish([x])


def test_before_the_layers_and_after_them() -> None:
    groups = groups_of(decoder(3))
    assert [group.layer for group in groups] == [
        None, *(("model.layers", layer) for layer in range(3)), None,
    ]  # fmt: skip
    assert [len(group.items) for group in groups] == [1, 7, 7, 7, 2]
    assert sorted(p for group in groups for p in group.positions) == list(range(24))


def test_equal_layers_are_of_one_kind() -> None:
    assert kinds_of(groups_of(decoder(4))) == [0, 1, 1, 1, 1, 2]


def test_a_layer_that_computes_something_else_is_another_kind() -> None:
    graph = chain("m.layers.0", "m.layers.1")
    other = chain("m.layers.0", "m.layers.1.mlp")
    assert kinds_of(groups_of(graph)) == [0, 0]
    assert kinds_of(groups_of(other)) == [0, 1]


def test_two_lists_of_layers_are_not_mixed() -> None:
    groups = groups_of(chain("encoder.layers.0", "decoder.layers.0"))
    assert [group.layer for group in groups] == [("encoder.layers", 0), ("decoder.layers", 0)]
    assert kinds_of(groups) == [0, 1]


def test_what_is_of_no_layer_goes_where_it_is_needed() -> None:
    groups = groups_of(chain("m.embed", "m.layers.0", "m.between", "m.layers.1", "m.norm"))
    assert [(group.layer, group.positions) for group in groups] == [
        (None, (0,)),
        (("m.layers", 0), (1, 2)),
        (("m.layers", 1), (3,)),
        (None, (4,)),
    ]


def test_a_model_without_layers_is_cut_into_drawings() -> None:
    groups = groups_of(chain(*["m"] * (module.MOST_ITEMS + 5)))
    assert [len(group.items) for group in groups] == [module.MOST_ITEMS, 5]


def test_names_inside_a_group() -> None:
    group = groups_of(decoder(2))[2]
    assert [value.name for value in group.weights] == [
        "model.layers.1.norm.weight",
        "model.layers.1.self_attn.q_proj.weight",
    ]
    assert [value.name for value in group.ports] == [
        "7", "4", "slots", "starts", "lengths", "tables",
    ]  # fmt: skip
    norm = group.items[0].nodes[0]
    assert [group.reference(value) for value in (*norm.inputs, *norm.outputs)] == ["p0", "w0", 0]


def test_layers_of_a_state_are_counted_from_the_groups_own() -> None:
    group = groups_of(decoder(2))[2]
    write = next(item.nodes[0] for item in group.items if item.name == "kv_write")
    assert group.state_layer == 1
    assert layer_offset(group, write) == 0
    assert layer_offset(group, group.items[0].nodes[0]) is None


def test_a_view_that_two_regions_hold_has_one_number() -> None:
    from graphopt.report.items import step_items

    source = compiled(decoder(1))
    group = group_items(source.graph, step_items(source.graph, source.plan))[1]
    assert sorted(group.locals.values()) == list(range(len(group.locals)))
