"""Equal decisions are one, and nothing is lost on the way."""

from __future__ import annotations

from graphopt.ledger import Ledger, accept, refuse
from graphopt.report.decisions import group_decisions, split_where, totals


def sample() -> Ledger:
    ledger = Ledger()
    for layer in (0, 1, 3):
        scope = f"model.layers.{layer}.mlp"
        ledger.record("merge", f"%{layer} {scope}", accept("one input", saves_bytes=10))
        ledger.record("fuse", f"%{layer}7 {scope}", refuse(f"%{layer}9 leaves {scope}", "%1"))
    ledger.record("merge", "%80 model.norm", accept("one input", saves_bytes=5))
    ledger.record("merge", "%81 model.layers.0.mlp", refuse("one input"))
    ledger.record("hoist", "@model.layers.0.w", accept("made once"))
    ledger.record("hoist", "@model.layers.1.w", accept("made once"))
    return ledger


def test_what_differs_in_names_and_layers_is_one_row() -> None:
    rows = [
        (group.first.rule, group.first.applied, group.where, len(group.entries), group.saves_bytes)
        for group in group_decisions(sample().entries)
    ]
    assert rows == [
        ("merge", True, "model.layers.0-1, 3.mlp", 3, 30),
        ("merge", True, "%80 model.norm", 1, 5),
        ("merge", False, "%81 model.layers.0.mlp", 1, 0),
        ("fuse", False, "model.layers.0-1, 3.mlp", 3, 0),
        ("hoist", True, "@model.layers.0-1.w", 2, 0),
    ]


def test_no_decision_is_lost() -> None:
    entries = sample().entries
    grouped = [entry for group in group_decisions(entries) for entry in group.entries]
    assert sorted(map(repr, grouped)) == sorted(map(repr, entries))


def test_several_places_outside_of_layers_show_the_first() -> None:
    ledger = Ledger()
    ledger.record("fuse", "%1", accept())
    ledger.record("fuse", "%2", accept())
    (group,) = group_decisions(ledger.entries)
    assert (group.where, len(group.entries)) == ("%1", 2)


def test_totals_count_what_was_saved_by_what_was_applied() -> None:
    found = {t.rule: (t.applied, t.refused, t.saves_bytes) for t in totals(sample().entries)}
    assert found == {"merge": (4, 1, 35), "fuse": (0, 3, 0), "hoist": (2, 0, 0)}


def test_a_place_is_a_value_and_a_module() -> None:
    assert split_where("%12 model.layers.0.mlp") == ("%12", "model.layers.0.mlp")
    assert split_where("%12") == ("%12", "")
    assert split_where("@model.w") == ("", "@model.w")
    assert split_where("layer 0") == ("", "layer 0")
    assert split_where("") == ("", "")
