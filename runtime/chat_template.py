"""Chat templates, rendered as transformers renders them, in a sandbox with limits.

A template comes with the checkpoint and messages come from anywhere, so rendering can read nothing
but what it is given, and stops when it takes too long, writes too much or makes huge values. The
environment has what transformers gives templates: ``raise_exception``, ``strftime_now``, a
``tojson`` that does not escape HTML, ``break`` and ``continue``, and the ``generation`` tag, which
changes nothing here.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

import jinja2
import jinja2.exceptions
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.runtime
import jinja2.sandbox
import jinja2.utils
import jinja2.visitor

from graphopt.errors import ArtifactError, RequestError

from .template_limits import MAX_ALL_CHARS, chars, check_method, check_operator, demand, guarded

MAX_TEMPLATE_CHARS = 1 << 20
MAX_OUTPUT_CHARS = 16 << 20
MAX_RENDER_S = 5.0
_BUDGET = "graphopt budget"  # not an identifier: no template can name it

# What a template may run into with messages that it did not expect.
_RENDER_ERRORS = (
    jinja2.TemplateError,
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    RecursionError,
    TypeError,
    ValueError,
)


class _Budget:
    """Time and text that one rendering may use."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._deadline_s = clock() + MAX_RENDER_S
        self._chars = 0
        self._made_chars = 0

    def charge(self, size: int) -> None:
        """Count a value of ``size`` characters that the template made."""
        self.tick()
        self._made_chars += size
        demand(self._made_chars, MAX_ALL_CHARS)

    def tick(self) -> None:
        if self._clock() > self._deadline_s:
            raise RequestError(
                "the chat template takes too long", expected=f"at most {MAX_RENDER_S:g} s"
            )

    def write(self, text: str) -> str:
        self.tick()
        self._chars += len(text)
        if self._chars > MAX_OUTPUT_CHARS:
            raise RequestError(
                "the chat template writes too much", expected=f"at most {MAX_OUTPUT_CHARS} chars"
            )
        return text


class _Concatenations(jinja2.visitor.NodeTransformer):
    """Turns ``a ~ b`` into ``[a, b] | join``, the same text, checked as filters are."""

    def visit_Concat(  # noqa: N802 (the library's name)
        self, node: jinja2.nodes.Concat
    ) -> jinja2.nodes.Node:
        """The filter for one chain of ``~``."""
        self.generic_visit(node)
        listed = jinja2.nodes.List(node.nodes, lineno=node.lineno)
        return jinja2.nodes.Filter(listed, "join", [], [], None, None, lineno=node.lineno)


class _Extension(jinja2.ext.Extension):
    """The ``generation`` tag, and the tick at the start of every loop's and macro's body."""

    tags = {"generation"}  # noqa: RUF012 (the library's own declaration)

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        """Replace the tag by what is between it and its end."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    def guard(self, tree: jinja2.nodes.Template) -> jinja2.nodes.Template:
        """Insert the ticks, and make filters of concatenations."""
        _Concatenations().visit(tree)
        for node in list(tree.find_all((jinja2.nodes.For, jinja2.nodes.Macro))):
            if isinstance(node, jinja2.nodes.For | jinja2.nodes.Macro):
                call = self.call_method("tick", [jinja2.nodes.ContextReference()])
                node.body.insert(0, jinja2.nodes.ExprStmt(call).set_lineno(node.lineno))
        tree.set_environment(self.environment)
        return tree

    def tick(self, context: jinja2.runtime.Context) -> None:
        """Called by the template itself."""
        _budget_of(context).tick()


class _Environment(jinja2.sandbox.ImmutableSandboxedEnvironment):
    """The sandbox, with whatever could make huge values intercepted."""

    intercepted_binops = frozenset(("+", "*", "**", "%"))

    def call_binop(
        self, context: jinja2.runtime.Context, operator: str, left: Any, right: Any
    ) -> Any:
        """Evaluate an intercepted operator, unless the result would be huge."""
        check_operator(operator, left, right)
        result = super().call_binop(context, operator, left, right)
        _budget_of(context).charge(chars(result))
        return result

    def call(
        self, context: jinja2.runtime.Context, function: Any, /, *given: Any, **named: Any
    ) -> Any:
        """Call a function or a method, unless the result would be huge."""
        check_method(function, given, named)
        result = super().call(context, function, *given, **named)
        if isinstance(result, str):
            _budget_of(context).charge(len(result))
        return result


def _budget_of(context: jinja2.runtime.Context) -> _Budget:
    """The budget of the rendering that ``context`` belongs to."""
    budget: _Budget = context.parent[_BUDGET]
    return budget


def _finalize(value: Any) -> Any:
    """A value that is about to be written, unless its text would be huge."""
    demand(chars(value))
    return value


class _Namespace(jinja2.utils.Namespace):
    """A namespace without private names, as in transformers."""

    def __setitem__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            raise jinja2.exceptions.SecurityError(f"the name {name!r} is private")
        super().__setitem__(name, value)


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _environment() -> _Environment:
    environment = _Environment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[_Extension, jinja2.ext.loopcontrols],
        finalize=_finalize,
    )
    environment.filters["tojson"] = _tojson
    for name, function in list(environment.filters.items()):
        environment.filters[name] = guarded(
            name, function, lambda context: _budget_of(context).charge
        )
    environment.globals.pop("lipsum")
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    environment.globals["namespace"] = _Namespace
    return environment


class ChatTemplate:
    """A template that turns messages into a prompt.

    Args:
        source: the template.
        clock: seconds, for the time limit.

    Raises:
        ArtifactError: the source is not a template, or absurdly long.
    """

    def __init__(self, source: str, clock: Callable[[], float] = time.monotonic) -> None:
        if len(source) > MAX_TEMPLATE_CHARS:
            raise ArtifactError(
                "the chat template is too long",
                got=f"{len(source)} characters",
                expected=f"at most {MAX_TEMPLATE_CHARS}",
            )
        self._clock = clock
        environment = _environment()
        extension = environment.extensions[_Extension.identifier]
        try:
            tree = environment.parse(source)
            if isinstance(extension, _Extension):
                tree = extension.guard(tree)
            self._template = environment.from_string(tree)
        except (jinja2.TemplateError, RecursionError, SyntaxError, MemoryError) as error:
            line = getattr(error, "lineno", None)
            raise ArtifactError(
                "the chat template is not valid",
                where=None if line is None else f"line {line}",
                got=str(error),
                next="repair chat_template in the checkpoint's tokenizer_config.json",
            ) from error

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        variables: Mapping[str, Any],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
    ) -> str:
        """The prompt for ``messages``.

        Args:
            messages: one conversation; each has a ``role`` and usually a ``content``.
            variables: what else the template may use, such as ``bos_token``.
            tools: JSON schemas of functions the model may call.
            add_generation_prompt: whether to end where the assistant's answer starts.

        Raises:
            RequestError: the template refuses the messages, fails on them, or exceeds its limits.
        """
        budget = _Budget(self._clock)
        values = {
            "documents": None,
            **{name: plain(value, name) for name, value in variables.items()},
            "messages": plain(messages, "messages"),
            "tools": None if tools is None else plain(tools, "tools"),
            "add_generation_prompt": add_generation_prompt,
            _BUDGET: budget,
        }
        try:
            return "".join(budget.write(piece) for piece in self._template.generate(values))
        except _RENDER_ERRORS as error:
            raise RequestError(
                "the chat template cannot render these messages",
                got=f"{type(error).__name__}: {error}",
                next="check the roles, their order and the types of the contents",
            ) from error


def plain(value: Any, where: str) -> Any:
    """``value`` rebuilt from JSON's types, so that a template meets no methods but theirs.

    Raises:
        RequestError: it holds something else.
    """
    if value is None or isinstance(value, bool):
        return value
    for kind in (str, int, float):
        if isinstance(value, kind):
            return kind(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray | memoryview):
        return [plain(item, f"{where}[{place}]") for place, item in enumerate(value)]
    raise RequestError(
        "messages must hold plain values",
        where=where,
        got=type(value).__name__,
        expected="text, numbers, booleans, None, lists and dictionaries",
    )
