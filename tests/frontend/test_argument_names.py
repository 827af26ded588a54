from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from torch.fx import Graph

from graphopt.frontend.argument_names import path_in, source_name

SOURCES = [
    ("L['x']", "x"),
    ("L['self']._modules['layers']._modules['0']._parameters['weight']", "layers.0.weight"),
    ("L['self']._buffers['table']", "table"),
    ("L['arguments'][1]", "arguments.1"),
    ("L['given']['a key']", "given.a.key"),
    ("G['module'].weight", "module.weight"),
    ("L['self']", "self"),
]


@pytest.mark.parametrize(("text", "name"), SOURCES)
@pytest.mark.parametrize("called", [False, True])  # what a source's name is, version by version
def test_the_path_below_the_module_is_the_name(text: str, name: str, called: bool) -> None:
    node: Any = Graph().placeholder("l_x_")
    node._dynamo_source = SimpleNamespace(name=(lambda: text) if called else text)
    assert source_name(node) == name


def test_an_argument_without_a_source_has_the_name_of_its_node() -> None:
    assert source_name(Graph().placeholder("given")) == "given"


def test_paths_are_attributes_and_items_without_the_variable() -> None:
    assert path_in(SOURCES[1][0]) == "layers.0.weight"
    assert path_in("L['x']") == ""
    assert path_in("layers[3].mlp") == "layers.3.mlp"
