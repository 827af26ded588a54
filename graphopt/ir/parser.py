"""Reads the text form of a graph, in time linear in the text.

A tokenizer that is asked for one kind of thing at a time, and a recursive descent over it; types
are read once per spelling.

    graph    = "graph" "@" name "(" [value {"," value}] ")" "->" types "{" {value} {node} return "}"
    value    = ("%" | "@") name ":" type
    types    = type | "(" [type {"," type}] ")"
    node     = value {"," value} "=" operator "(" [names] ")" ["{" attr {"," attr} "}"] [location]
    attr     = word "=" constant
    constant = "none" | "true" | "false" | float | string | dtype | "$" integer | size | list
    location = "//" [file ":" line] ["in" module] end-of-line
    return   = "return" [names]
"""

from __future__ import annotations

import json
import re
from types import MappingProxyType
from typing import NoReturn

from graphopt.errors import ParseError

from .dtype import DType
from .graph import Attr, Graph, Node, Operand, SourceLocation, Value
from .shape import parse_dim_at
from .types import STATE_KINDS, LayerState, StateType, TensorType, Type

_STRING = r'"(?:[^"\\\n]|\\[^\n])*"'
_SPACE = re.compile(r"[ \t\r\n]*")
_BLANK = re.compile(r"[ \t]*")
_SIGIL_NAME = re.compile(rf"([%@])(?:(\w[\w.\-]*)|({_STRING}))", re.ASCII)
_WORD = re.compile(rf"([A-Za-z_][\w.]*)|({_STRING})", re.ASCII)
_INTEGER = re.compile(r"\d{1,18}(?!\w)", re.ASCII)
_TYPE_TEXT = re.compile(r"[a-z]\w*\[[^\[\]\n]*\]", re.ASCII)
_CONSTANT = re.compile(
    r"(?P<word>none|true|false|nan|-?inf)(?![\w.])"
    r"|(?P<float>-?\d+(?:\.\d+(?:e[+-]?\d+)?|e[+-]?\d+))(?![\w.])"
    rf"|(?P<string>{_STRING})"
    r"|\$(?P<operand>\d{1,9})(?!\w)"
    rf"|(?P<dtype>{'|'.join(dtype.value for dtype in DType)})(?![\w.])"
    r"|(?P<list>\[)",
    re.ASCII,
)
_FILE = re.compile(rf"([\w.\-]+)|({_STRING})", re.ASCII)
_MODULE = re.compile(rf"(\w[\w.\-]*)|({_STRING})", re.ASCII)
_WORDS: dict[str, Attr] = {
    "none": None,
    "true": True,
    "false": False,
    "nan": float("nan"),
    "inf": float("inf"),
    "-inf": float("-inf"),
}
_DEEPEST = 100  # lists in lists
_MOST_LAYERS = 100_000


def parse_graph(text: str) -> Graph:
    """The graph that prints as ``text``; ``verify`` says whether it is well formed.

    Raises:
        ParseError: the text is not a graph; it says the line and column, what is there and what
            was expected.
    """
    return _Parser(text).graph()


def parse_type(text: str) -> Type:
    """The type that prints as ``text``, such as ``bf16[T, 2048]``.

    Raises:
        ParseError: the text is not a type.
    """
    parser = _Parser(text)
    found = parser.type()
    parser.end()
    return found


class _Parser:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.values: dict[str, Value] = {}
        self.types: dict[str, Type] = {}

    def graph(self) -> Graph:
        self.mark("graph")
        sigil, name = self.name()
        if sigil != "@":
            self.fail("@ and the graph's name")
        inputs = self.inputs()
        self.mark("->")
        promised = self.promised()
        self.mark("{")
        weights: list[Value] = []
        nodes: list[Node] = []
        while not self.try_mark("return"):
            statement = self.statement()
            if isinstance(statement, Node):
                nodes.append(statement)
            elif nodes:
                self.fail("weights before nodes")
            else:
                weights.append(statement)
        start = self.at
        outputs = () if self.try_mark("}") else self.uses("}")
        self.end()
        if tuple(value.type for value in outputs) != promised:
            self.at = start
            self.fail(f"values of types {', '.join(map(str, promised))}")
        return Graph(name, inputs, tuple(weights), tuple(nodes), outputs)

    def inputs(self) -> tuple[Value, ...]:
        self.mark("(")
        if self.try_mark(")"):
            return ()
        found: list[Value] = []
        while True:
            value = self.declaration()
            if value.is_weight:
                self.fail("an input, %")
            found.append(value)
            if self.try_mark(")"):
                break
            self.mark(",")
        for value in found:
            self.define(value)
        return tuple(found)

    def promised(self) -> tuple[Type, ...]:
        if not self.try_mark("("):
            return (self.type(),)
        if self.try_mark(")"):
            return ()
        found = [self.type()]
        while not self.try_mark(")"):
            self.mark(",")
            found.append(self.type())
        return tuple(found)

    def statement(self) -> Node | Value:
        """The declaration of a weight, or a node."""
        outputs = [self.declaration()]
        if outputs[0].is_weight:
            self.define(outputs[0])
            return outputs[0]
        while self.try_mark(","):
            outputs.append(self.declaration())
        self.mark("=")
        op = self.word("an operator")
        self.mark("(")
        inputs = () if self.try_mark(")") else self.uses(")")
        attrs = self.attrs() if self.try_mark("{") else {}
        loc = self.location() if self.try_mark("//") else None
        for value in outputs:
            if value.is_weight:
                self.fail("results of a node, %")
            self.define(value)
        return Node(op, inputs, tuple(outputs), MappingProxyType(attrs), loc)

    def declaration(self) -> Value:
        sigil, name = self.name()
        self.mark(":")
        return Value(name, self.type(), is_weight=sigil == "@")

    def define(self, value: Value) -> None:
        key = f"{'@' if value.is_weight else '%'}{value.name}"
        if key in self.values:
            self.fail("names that are defined once", got=f"{key} a second time")
        self.values[key] = value

    def uses(self, close: str) -> tuple[Value, ...]:
        """Names of values up to ``close``."""
        found: list[Value] = []
        while True:
            self.skip()
            start = self.at
            sigil, name = self.name()
            value = self.values.get(sigil + name)
            if value is None:
                self.at = start
                self.fail("a value that is defined above", got=sigil + name)
            found.append(value)
            if self.try_mark(close):
                return tuple(found)
            self.mark(",")

    def attrs(self) -> dict[str, Attr]:
        found: dict[str, Attr] = {}
        while True:
            name = self.word("an attribute's name")
            if name in found:
                self.fail("attributes that are given once", got=f"{name} a second time")
            self.mark("=")
            found[name] = self.constant(0)
            if self.try_mark("}"):
                return found
            self.mark(",")

    def constant(self, depth: int) -> Attr:
        self.skip()
        match = _CONSTANT.match(self.text, self.at)
        if match is None:
            return self.size()
        kind, text = match.lastgroup, match[0]
        start, self.at = self.at, match.end()
        if kind == "word":
            return _WORDS[text]
        if kind == "float":
            return float(text)
        if kind == "string":
            return self.unquoted(text, start)
        if kind == "operand":
            return Operand(int(match["operand"]))
        if kind == "dtype":
            return DType(text)
        if depth == _DEEPEST:
            self.fail(f"lists at most {_DEEPEST} deep")
        items: list[Attr] = []
        if self.try_mark("]"):
            return ()
        while True:
            items.append(self.constant(depth + 1))
            if self.try_mark("]"):
                return tuple(items)
            self.mark(",")

    def size(self) -> Attr:
        start = self.at
        try:
            dim, self.at = parse_dim_at(self.text, start)
        except ParseError as error:
            self.at = start
            self.fail(error.expected or "a size", got=error.got)
        return dim

    def location(self) -> SourceLocation:
        file, line, module = "", 0, ""
        self.blank()
        if not self.text.startswith("in ", self.at):
            file = self.bare(_FILE) if not self.text.startswith(":", self.at) else ""
            if not self.text.startswith(":", self.at):
                self.fail(":")
            self.at += 1
            line = self.integer()
            self.blank()
        if self.text.startswith("in ", self.at):
            self.at += 3
            module = self.bare(_MODULE)
            self.blank()
        if not self.text.startswith(("\n", "\r\n"), self.at):
            self.fail("the end of the line")
        return SourceLocation(file, line, module)

    def type(self) -> Type:
        self.skip()
        match = _TYPE_TEXT.match(self.text, self.at)
        if match is None:
            self.fail("a type")
        known = self.types.get(match[0])
        if known is not None:
            self.at = match.end()
            return known
        start = self.at
        word = match[0][: match[0].index("[")]
        self.at += len(word) + 1
        if word in STATE_KINDS:
            found: Type = StateType(word, self.layers())
        elif word in _DTYPES:
            found = TensorType(_DTYPES[word], self.shape())
        else:
            self.at = start
            self.fail("an element type or a kind of state", got=word)
        self.types[match[0]] = found
        return found

    def shape(self) -> tuple[int, ...]:
        if self.try_mark("]"):
            return ()
        found = []
        while True:
            self.skip()
            found.append(self.size())
            if self.try_mark("]"):
                return tuple(found)  # type: ignore[arg-type]
            self.mark(",")

    def layers(self) -> tuple[LayerState, ...]:
        found: list[LayerState] = []
        if self.try_mark("]"):
            return ()
        while True:
            self.skip()
            count = self.integer()
            if not 1 <= count <= _MOST_LAYERS - len(found):
                self.fail(f"1 to {_MOST_LAYERS} layers", got=count)
            self.mark("x")
            found.extend([self.layer()] * count)
            if self.try_mark("]"):
                return tuple(found)
            self.mark(",")

    def layer(self) -> LayerState:
        self.mark("(")
        sizes: list[int] = []
        for _ in range(3):
            self.skip()
            sizes.append(self.integer())
            self.mark(",")
        self.skip()
        word = self.word("an element type")
        if word not in _DTYPES:
            self.fail("an element type", got=word)
        window = 0
        if self.try_mark(","):
            self.skip()
            window = self.integer()
        self.mark(")")
        return LayerState(sizes[0], sizes[1], sizes[2], _DTYPES[word], window)

    def name(self) -> tuple[str, str]:
        self.skip()
        match = _SIGIL_NAME.match(self.text, self.at)
        if match is None:
            self.fail("% or @ and a name")
        start, self.at = self.at, match.end()
        plain: str | None = match[2]
        return match[1], self.unquoted(match[3], start) if plain is None else plain

    def word(self, what: str) -> str:
        self.skip()
        return self.bare(_WORD, what)

    def bare(self, pattern: re.Pattern[str], what: str = "a name") -> str:
        match = pattern.match(self.text, self.at)
        if match is None:
            self.fail(what)
        start, self.at = self.at, match.end()
        plain: str | None = match[1]
        return self.unquoted(match[2], start) if plain is None else plain

    def unquoted(self, text: str, start: int) -> str:
        try:
            value = json.loads(text)
        except ValueError:
            self.at = start
            self.fail("a string as in JSON")
        return str(value)

    def integer(self) -> int:
        match = _INTEGER.match(self.text, self.at)
        if match is None:
            self.fail("an integer")
        self.at = match.end()
        return int(match[0])

    def skip(self) -> None:
        match = _SPACE.match(self.text, self.at)
        self.at = match.end() if match else self.at

    def blank(self) -> None:
        match = _BLANK.match(self.text, self.at)
        self.at = match.end() if match else self.at

    def try_mark(self, mark: str) -> bool:
        self.skip()
        found = self.text.startswith(mark, self.at)
        if found:
            self.at += len(mark)
        return found

    def mark(self, mark: str) -> None:
        if not self.try_mark(mark):
            self.fail(mark)

    def end(self) -> None:
        self.skip()
        if self.at != len(self.text):
            self.fail("the end")

    def fail(self, expected: str, got: object = None) -> NoReturn:
        line = self.text.count("\n", 0, self.at) + 1
        column = self.at - self.text.rfind("\n", 0, self.at)
        rest = self.text[self.at : self.at + 40].split("\n")[0]
        raise ParseError(
            "the text is not a graph",
            where=f"line {line}, column {column}",
            got=got if got is not None else rest or "the end of the line",
            expected=expected,
        )


_DTYPES = {dtype.value: dtype for dtype in DType}
