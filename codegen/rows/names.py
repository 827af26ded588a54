"""Names in kernels: a weight after its module, a value after what makes it.

before:  ``@model.layers.3.input_layernorm.weight``, ``%47 = rms_norm(..)``
after:   ``input_layernorm_weight``, ``rms_norm1``

Names do not say which layer it is, so that equal layers have one kernel.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from graphopt.ir.graph import Graph, Node, Value
from graphopt.ir.printer import print_attr
from graphopt.ir.types import StateType
from graphopt.region import state_root

# Words of C++ and of Python, and what headers and templates call things; names from a model keep
# clear of them. Made-up names end in a digit; what does so in the headers is here.
TAKEN = (
    "step team a t r n i j k l m o p q first last scratch out acc row count auto bool break case "
    "catch char class const default delete do double else enum float for goto if inline int long "
    "new operator private public register return short signed sizeof static struct switch this "
    "template throw true false try typedef union unsigned using void volatile while and or not "
    "continue alignas alignof and_eq asm bitand bitor char8_t char16_t char32_t compl concept "
    "consteval constexpr constinit const_cast co_await co_return co_yield decltype dynamic_cast "
    "explicit export extern friend mutable namespace noexcept not_eq nullptr or_eq protected "
    "reinterpret_cast requires static_assert static_cast thread_local typeid typename wchar_t "
    "xor_eq "
    "xor load store sum exp expm1 log log1p tanh sin cos tan erf sqrt floor ceil round pow select "
    "splat zeros "
    "gopt columns put square rsqrt abs maximum minimum remainder route keep rounded opposite std "
    "and as assert async await class def del elif except finally from global import in is lambda "
    "None nonlocal pass raise with yield True False range tl triton "
    "bf16 f16 linear parts argmax running_sum top_k sort_line row_of"
)
_ODD = re.compile(r"\W+", re.ASCII)


class Names:
    """The names of one kernel."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._known: dict[Value, str] = {}
        self._taken = set(TAKEN.split())
        self._used: set[str] = set()

    def of(self, value: Value) -> str:
        """The name of a value, the same every time; versions of a state have one."""
        if isinstance(value.type, StateType):
            value = state_root(self._graph, value)
        if value not in self._known:
            node = self._graph.producers.get(value)
            if value.is_weight or node is None:
                self._known[value] = self.fresh(_short(value.name), number=False)
            else:
                self._known[value] = self.fresh(plain(node.op.removeprefix("aten.")))
        return self._known[value]

    def fresh(self, name: str, *, number: bool = True) -> str:
        """A name that nothing has yet, which begins with ``name``."""
        if not number and name not in self._taken:
            self._taken.add(name)
            return name
        stem, count = name.rstrip("0123456789") or "value", 1
        while f"{stem}{count}" in self._taken:
            count += 1
        self._taken.add(f"{stem}{count}")
        return f"{stem}{count}"

    def use(self, name: str) -> str:
        """``name`` for a variable; another one if a variable is called so already."""
        if name in self._used or name in TAKEN.split():
            name = self.fresh(name)
        self._used.add(name)
        return name

    def release(self, names: Iterable[str]) -> None:
        """Lets variables that are gone give their names to others."""
        known = set(self._known.values())
        for name in names:
            self._used.discard(name)
            if name not in known:
                self._taken.discard(name)

    def line(self, node: Node) -> str:
        """A node as a comment: the IR with these names; it does not say which layer it is."""
        outputs = ", ".join(f"{self.of(value)}: {_type(value)}" for value in node.outputs)
        inputs = ", ".join(map(self.of, node.inputs))
        attrs = ", ".join(
            f"{name} = {print_attr(attr)}" for name, attr in node.attrs.items() if name != "layer"
        )
        return f"{outputs} = {node.op}({inputs})" + (f" {{{attrs}}}" if attrs else "")


def _type(value: Value) -> str:
    return value.type.kind if isinstance(value.type, StateType) else str(value.type)


def _short(path: str) -> str:
    """The last two words of a path that are no numbers."""
    words = [word for word in path.split(".") if not word.isdecimal()]
    return plain("_".join(words[-2:]))


def plain(name: str) -> str:
    """``name`` as one word."""
    text = _ODD.sub("_", name).strip("_") or "value"
    return f"v{text}" if text[0].isdecimal() else text
