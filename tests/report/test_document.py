"""The document holds everything the page shows, as plain data."""

from __future__ import annotations

import json
from dataclasses import replace

from graphopt.report.document import document
from graphopt.report.machines import MACHINES

from .models import compiled, decoder, two_layers


def test_it_is_plain_data() -> None:
    found = document(two_layers())
    assert json.loads(json.dumps(found, allow_nan=False)) == json.loads(json.dumps(found))
    assert found["model"]["name"] == "tiny"
    assert found["weightBytes"] == 2 * (11 * 8 * 2 + 2 * (8 + 64))
    assert found["stateBytes"] == 2 * 2 * (4 + 4) * 2
    assert found["kernels"] == {"linear": "void kernel() {}"}


def test_only_kernels_of_the_plan_are_shown() -> None:
    source = two_layers()
    source = replace(source, kernels={**source.kernels, "unused": "text"})
    assert "unused" not in document(source)["kernels"]


def test_the_machine_fits_the_target() -> None:
    found = document(compiled(decoder(1), target="cuda:sm_80"))
    assert MACHINES[found["machine"]].name == "NVIDIA A100 80 GB"


def test_pieces_of_equal_layers_are_alike() -> None:
    pieces = document(compiled(decoder(3)))["pieces"]
    kinds = [piece["alike"] for piece in pieces]
    assert [piece["steps"] for piece in pieces] == [4, 1, 4, 1, 4, 1, 3]
    assert kinds[1] == kinds[3] == kinds[5]
    assert len(set(kinds)) < len(kinds)


def test_entries_hold_what_differs() -> None:
    groups = document(compiled(decoder(3)))["ledger"]["groups"]
    applied = next(group for group in groups if group["applied"])
    assert applied["scope"] == "model.layers.*.self_attn.q_proj"
    assert applied["entries"] == [["%2", 0, 64], ["%16", 2, 64]]
    refused = next(group for group in groups if not group["applied"])
    assert refused["entries"][0] == ["%9", 1, 0, "%8"]


def test_many_layers_take_little_more_than_few() -> None:
    sizes = [len(json.dumps(document(compiled(decoder(layers))))) for layers in (4, 40)]
    assert sizes[1] < 4 * sizes[0]


def test_a_graph_nobody_kept() -> None:
    assert document(replace(two_layers(), traced=None))["before"] is None
