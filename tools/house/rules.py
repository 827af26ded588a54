"""All checks by name, each as a function of a checkout."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import MappingProxyType

from . import arrows, habits, words
from .tree import Checkout, texts

MAY_SKIP = frozenset(("tests/conftest.py",))  # it skips the gpu tests where there is no GPU

Rule = Callable[[Checkout], Iterable[str]]

RULES: MappingProxyType[str, Rule] = MappingProxyType(
    {
        "every room has a floor": lambda c: arrows.homeless(c.product),
        "arrows point down": lambda c: arrows.wrong_arrows(c.product),
        "no bare imports": lambda c: arrows.bare_imports(c.everything),
        "relative inside a folder": lambda c: arrows.wrong_spelling(c.product),
        "no import cycles": lambda c: arrows.cycles(c.product),
        "the runtime needs no compiler": lambda c: arrows.runtime_reaches_compiler(c.product),
        "serving needs no torch": lambda c: arrows.heavy_imports(c.product),
        "short files": lambda c: habits.long_files(c.everything),
        "short functions": lambda c: habits.long_functions([*c.product, *c.around]),
        "module docstrings": lambda c: habits.without_docstring([*c.product, *c.around]),
        "no forbidden statements": lambda c: habits.forbidden_statements([*c.product, *c.around]),
        "no module-level registries": lambda c: habits.module_registries(c.product),
        "a test beside every source": lambda c: habits.without_test(c.product, c.root),
        "no skips": lambda c: habits.skips(c.tests, MAY_SKIP),
        "no forbidden words": lambda c: words.forbidden_words(texts(c.root)),
    }
)
