"""Write docs/operators.md from the operator table, so that the page cannot fall behind.

python -m tools.operators_page            # writes the page
"""

from __future__ import annotations

from pathlib import Path

from graphopt.ir.ops import OPS
from graphopt.ir.ops_spec import REQUIRED, AttrSpec, OpSpec

PAGE = Path(__file__).parent.parent / "docs" / "operators.md"
HEAD = """# Operators

<!-- Generated from the operator table by `python -m tools.operators_page`; do not edit. -->

What a graph is made of. Operands of one node have equal element types; sizes follow numpy's
broadcasting. An operator of PyTorch that has no row here stays in the graph as `aten.*` and runs
through PyTorch. A row means what its reference implementation in `graphopt/ir/reference.py` does;
the formula is what code generators compute for one element.

To add an operator: a row in `graphopt/ir/ops_*.py`, a reference in `graphopt/ir/reference_*.py`,
and, if models bring it as ATen, a lowering in `graphopt/frontend/`. The tests then ask for shapes
to try it on.

| operator | what it computes | inputs | attributes | formula |
| --- | --- | --- | --- | --- |
"""


def page() -> str:
    """The text of docs/operators.md."""
    return HEAD + "".join(_row(spec) for spec in OPS.values())


def _row(spec: OpSpec) -> str:
    least, most = spec.arity
    inputs = f"{least}" if least == most else f"{least} to {'any' if most is None else most}"
    attrs = ", ".join(map(_attribute, spec.attrs))
    formula = f"`{_cell(spec.scalar)}`" if spec.scalar else ("a view" if spec.view else "")
    return f"| `{spec.name}` | {_cell(spec.doc)} | {inputs} | {attrs} | {formula} |\n"


def _attribute(spec: AttrSpec) -> str:
    kind = " or ".join(spec.choices) if spec.choices else spec.kind
    text = f"`{spec.name}`: {kind}"
    if spec.optional:
        return f"{text}, optional"
    return text if spec.default is REQUIRED else f"{text} = {spec.default}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
