"""A report as one JSON document, which the page reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from graphopt.ir.types import nbytes
from graphopt.ledger import Entry, Ledger
from graphopt.plan import Plan

from .costs import lives
from .decisions import Decisions, group_decisions, split_where, totals
from .items import FAMILIES, Item, node_items, step_items
from .machines import MACHINES, machine_for
from .paths import split_layer, without_names
from .picture import Tables, picture
from .source import ReportSource


def document(source: ReportSource) -> dict[str, Any]:
    """Plain data of everything that the page shows; sizes are expressions over T, S, R, P."""
    plan, graph, model = source.plan, source.graph, source.model
    tables = Tables()
    steps = step_items(graph, plan)
    before = source.traced and picture(source.traced, node_items(source.traced), tables)
    after = picture(graph, steps, tables)
    memory = _memory(plan, steps, tables)
    used = {step.kernel for step in plan.steps()}
    return {
        "model": asdict(model),
        "versions": dict(source.versions),
        "target": plan.target,
        "dtype": plan.dtype.torch_name,
        "limits": asdict(plan.limits),
        "blockSize": plan.block_size,
        "state": str(plan.state),
        "stateBytes": plan.state.bytes_per_token,
        "weightBytes": sum(int(str(nbytes(value.type))) for value in graph.weights),
        "machines": [asdict(machine) for machine in MACHINES],
        "machine": MACHINES.index(machine_for(plan.target)),
        "families": list(FAMILIES),
        "before": before,
        "after": after,
        "kernels": {name: text for name, text in source.kernels.items() if name in used},
        "memory": memory,
        "pieces": _pieces(plan),
        "ledger": _ledger(source.ledger),
        "passes": [asdict(row) for row in source.passes],
        "types": list(tables.types),
        "sizes": list(tables.sizes),
    }


def _memory(plan: Plan, steps: Sequence[Item], tables: Tables) -> dict[str, Any]:
    """Sizes and lives of the buffers, and what steps need besides, by number."""
    return {
        "slots": [tables.size(slot.nbytes) for slot in plan.slots],
        "lives": [[life.slot, life.first, life.last, *life.names] for life in lives(plan, steps)],
        "workspaces": {
            number: tables.size(step.workspace)
            for number, step in enumerate(plan.steps())
            if step.workspace != 0
        },
    }


def _pieces(plan: Plan) -> list[dict[str, Any]]:
    """The pieces; ``alike`` is equal for those that differ in layers alone."""
    return [
        {
            "name": piece.name,
            "steps": len(piece.steps),
            "captured": piece.captured,
            "cut": piece.cut,
            "body": piece.body,
            "alike": f"{piece.captured} {piece.body} {len(piece.steps)} {without_names(piece.cut)}",
        }
        for piece in plan.pieces
    ]


def _ledger(ledger: Ledger) -> dict[str, Any]:
    return {
        "totals": [asdict(total) for total in totals(ledger.entries)],
        "groups": [_group(group) for group in group_decisions(ledger.entries)],
    }


def _group(group: Decisions) -> dict[str, Any]:
    """A row of the ledger; ``entries`` hold what differs: value, layer, bytes, culprits, reason."""
    first = group.first
    return {
        "rule": first.rule,
        "applied": first.applied,
        "reason": first.reason,
        "scope": group.scope,
        "where": group.where,
        "entries": [_entry(entry, first) for entry in group.entries],
    }


def _entry(entry: Entry, first: Entry) -> list[Any]:
    value, scope = split_where(entry.where)
    reason = entry.reason if entry.reason != first.reason else ""
    row = [value, split_layer(scope)[1], entry.saves_bytes, " ".join(entry.culprits), reason]
    while row[-1] in ("", None):
        row.pop()
    return row
