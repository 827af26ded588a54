"""Print every place that breaks a habit: `python -m tools.house [CHECKOUT]`."""

from __future__ import annotations

import sys
from pathlib import Path

from .rules import RULES
from .tree import Checkout


def main(root: Path) -> int:
    """Run every rule and print what it finds; the exit code is 1 if that is anything."""
    checkout = Checkout(root)
    count = 0
    for name, rule in RULES.items():
        for finding in rule(checkout):
            print(f"{name}: {finding}")
            count += 1
    return 1 if count else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1] if len(sys.argv) > 1 else ".").resolve()))
