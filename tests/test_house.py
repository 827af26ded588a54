"""The habits of the house hold in this checkout; tests/tools/house tests the checks themselves."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tools.house.arrows import light_modules
from tools.house.rules import RULES
from tools.house.tree import PRODUCT, Checkout

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def checkout() -> Checkout:
    return Checkout(ROOT)


@pytest.mark.parametrize("rule", RULES)
def test_rule_holds(rule: str, checkout: Checkout) -> None:
    findings = list(RULES[rule](checkout))
    assert not findings, f"{rule}: {len(findings)} places\n" + "\n".join(findings)


def test_the_rules_look_at_something(checkout: Checkout) -> None:
    """A moved folder must not turn every rule into one that looks at nothing and holds."""
    folders = {source.path.parts[0] for source in checkout.everything}
    assert folders >= {*PRODUCT, "tools", "tests"}
    assert len(checkout.product) > 10


def test_links_lead_to_the_top_level() -> None:
    for name in PRODUCT[1:]:
        link = ROOT / "graphopt" / name
        assert link.is_symlink(), f"{link} is no link"
        assert str(link.readlink()) == f"../{name}"


def test_light_modules_come_up_without_torch(checkout: Checkout) -> None:
    """What the import graph promises, an interpreter confirms: module by module, in one process."""
    names = light_modules(checkout.product)
    assert {"graphopt", "graphopt.errors", "graphopt.ir.graph"} <= set(names)
    program = f"""
import importlib, sys
for name in {names!r}:
    if not name.endswith("__main__"):
        importlib.import_module(name)
        heavy = sorted({{"torch", "transformers"}} & set(sys.modules))
        if heavy:
            sys.exit(f"{{name}} imports {{', '.join(heavy)}}")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd="/")
    assert done.returncode == 0, done.stderr
