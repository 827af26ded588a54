"""Turn the running interpreter's standard library into documentation texts to learn from.

before:  a tree of .py files, the compiled modules of this interpreter, the topics behind help()
after:   a sorted tuple of `Entry`, each one documentation string with the name it documents, split
         into a training part and a held-out part that share no near duplicates

Nothing is executed: the .py files are read with `ast`. Only the compiled modules, which have no
source, are imported to read their documentation. The text is the Python Software Foundation's,
under the PSF licence.

    entries = collect(Path(sysconfig.get_path("stdlib")))
    training, held_out = split(entries)
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import inspect
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import ModuleType

# Directories that hold no documentation of the library: tests, third parties, generated data.
SKIPPED_DIRECTORIES = frozenset(
    {"site-packages", "test", "tests", "idle_test", "lib2to3", "turtledemo", "encodings"}
)

# Modules written in C: their documentation is in the binary. One that this build lacks is skipped.
_COMPILED = """
_abc _asyncio _bisect _bz2 _codecs _collections _csv _ctypes _curses _datetime _decimal
_elementtree _functools _hashlib _heapq _imp _io _json _locale _lsprof _lzma _operator _pickle
_posixsubprocess _random _signal _socket _sqlite3 _sre _ssl _stat _statistics _string _struct
_symtable _thread _tracemalloc _warnings _weakref _zoneinfo array atexit audioop binascii builtins
cmath errno faulthandler fcntl gc grp itertools marshal math mmap nis ossaudiodev posix pwd pyexpat
readline resource select spwd sys syslog termios time unicodedata zlib
"""
COMPILED_MODULES = tuple(_COMPILED.split())

# The name under which people know a module that is implemented under another one.
PUBLIC_MODULES = {
    "_collections_abc": "collections.abc",
    "_pydecimal": "decimal",
    "_pyio": "io",
    "posix": "os",
    "posixpath": "os.path",
    "_io": "io",
    "_thread": "threading",
}

# Where an underlined heading begins.
_HEADING = re.compile(r"\n(?=[^\n ][^\n]*\n(?:\*{3,}|={3,}|-{3,}|~{3,})\n)")

# How C code spells the parameters that a caller does not pass.
_TEXT_SIGNATURE_MARKERS = (
    ("$module, /, ", ""),
    ("$module, /", ""),
    ("$module, ", ""),
    ("$module", ""),
    ("$self", "self"),
    ("$type", "cls"),
)

# Three in a hundred are drawn; about two remain once the near duplicates are back in training.
HELD_OUT_PER_MILLE = 30
# Two texts are near duplicates when they share this part of their runs of five words.
SHINGLE_WORDS = 5
NEAR_DUPLICATE_SHARE = 0.4
SHORTEST_TEXT_CHARACTERS = 20  # "See base class." documents nothing


class Kind(StrEnum):
    """What an entry documents."""

    MODULE = "module"
    CLASS = "class"
    FUNCTION = "function"
    TOPIC = "topic"


@dataclass(frozen=True, slots=True, order=True)
class Entry:
    """One documentation string.

    Attributes:
        name: the dotted name it documents, `os.path.join`.
        signature: the line that opens the definition, `def join(a, *p):`; empty without one.
        text: the documentation, dedented, without trailing blanks.
        kind: what the name is.
    """

    name: str
    signature: str
    text: str
    kind: Kind


def collect(root: Path, compiled: Sequence[str] = COMPILED_MODULES) -> tuple[Entry, ...]:
    """Every documentation string under `root` and in the `compiled` modules, each text once.

    The order depends on the texts alone, never on the file system.
    """
    found: list[Entry] = []
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).parts
        if SKIPPED_DIRECTORIES.isdisjoint(parts):
            found.extend(_read_file(path, _module_name(parts)))
    for name in compiled:
        try:
            module = importlib.import_module(name)
        except ImportError:
            continue
        found.extend(_compiled_entries(module))
    unique: dict[str, Entry] = {}
    # A public name wins over a private one for the same text, so that a question can be asked.
    for entry in sorted(found, key=lambda e: (not is_public(e.name), e)):
        if len(entry.text) >= SHORTEST_TEXT_CHARACTERS:
            unique.setdefault(" ".join(_words(entry.text)), entry)
    return tuple(sorted(unique.values()))


def is_public(name: str) -> bool:
    """Whether no part of a dotted name is private: `os.path.join`, not `os._exit`."""
    return not any(part.startswith("_") for part in name.split("."))


def split(entries: Sequence[Entry]) -> tuple[tuple[Entry, ...], tuple[Entry, ...]]:
    """Training and held-out entries; a text falls on its side by its own hash.

    A held-out text that shares NEAR_DUPLICATE_SHARE of its five-word sequences with the training
    texts goes back to training, until none does.
    """
    held_out = [entry for entry in entries if _bucket(entry.text) < HELD_OUT_PER_MILLE]
    candidates = set(held_out)
    training = [entry for entry in entries if entry not in candidates]
    seen = {shingle for entry in training for shingle in _shingles(entry.text)}
    moved = True
    while moved:
        moved = False
        for entry in tuple(held_out):
            shingles = _shingles(entry.text)
            if len(shingles & seen) >= NEAR_DUPLICATE_SHARE * len(shingles):
                held_out.remove(entry)
                training.append(entry)
                seen |= shingles
                moved = True
    return tuple(sorted(training)), tuple(held_out)


def _module_name(parts: tuple[str, ...]) -> str:
    names = [*parts[:-1], parts[-1].removesuffix(".py")]
    if names[-1] == "__init__" and len(names) > 1:
        names.pop()
    name = ".".join(names)
    return PUBLIC_MODULES.get(name, name)


def _read_file(path: Path, module: str) -> Iterator[Entry]:
    try:
        tree = ast.parse(path.read_bytes())
    except SyntaxError:  # the library ships a few files that are wrong on purpose
        return
    if module == "pydoc_data.topics":
        yield from _topics(tree)
        return
    text = ast.get_docstring(tree)
    if text:
        yield Entry(module, "", _clean(text), Kind.MODULE)
    yield from _definitions(tree, module)


def _definitions(scope: ast.AST, prefix: str) -> Iterator[Entry]:
    for node in ast.iter_child_nodes(scope):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            name = f"{prefix}.{node.name}"
            text = ast.get_docstring(node)
            if text:
                kind = Kind.CLASS if isinstance(node, ast.ClassDef) else Kind.FUNCTION
                yield Entry(name, _signature(node), _clean(text), kind)
            yield from _definitions(node, name)
        elif isinstance(node, ast.If | ast.Try | ast.With):
            yield from _definitions(node, prefix)


def _signature(node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    if isinstance(node, ast.ClassDef):
        bases = ", ".join(ast.unparse(base) for base in [*node.bases, *node.keywords])
        return f"class {node.name}({bases}):" if bases else f"class {node.name}:"
    word = "async def" if isinstance(node, ast.AsyncFunctionDef) else "def"
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return f"{word} {node.name}({ast.unparse(node.args)}){returns}:"


def _topics(tree: ast.Module) -> Iterator[Entry]:
    """The chapters of the language reference behind help("topic"), cut at their headings."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
            for topic, chapter in ast.literal_eval(node.value).items():
                for section in _HEADING.split(chapter):
                    yield Entry(topic, "", _clean(section), Kind.TOPIC)


def _compiled_entries(module: ModuleType) -> Iterator[Entry]:
    prefix = PUBLIC_MODULES.get(module.__name__, module.__name__.lstrip("_"))
    if module.__doc__:
        yield Entry(prefix, "", _clean(module.__doc__), Kind.MODULE)
    for name, value in sorted(vars(module).items()):
        if inspect.isclass(value):
            yield from _compiled_entry(f"{prefix}.{name}", value)
            for attribute, member in sorted(vars(value).items()):
                yield from _compiled_entry(f"{prefix}.{name}.{attribute}", member)
        elif inspect.isroutine(value):
            yield from _compiled_entry(f"{prefix}.{name}", value)


def _compiled_entry(name: str, value: object) -> Iterator[Entry]:
    text = getattr(value, "__doc__", None)
    if not isinstance(text, str) or not (inspect.isclass(value) or callable(value)):
        return
    if inspect.isclass(value):
        signature, kind = f"class {value.__name__}:", Kind.CLASS
    else:
        arguments = getattr(value, "__text_signature__", None) or "(...)"
        for marker, plain in _TEXT_SIGNATURE_MARKERS:
            arguments = arguments.replace(marker, plain)
        signature, kind = f"def {name.rsplit('.', 1)[1]}{arguments}:", Kind.FUNCTION
    yield Entry(name.removeprefix("builtins."), signature, _clean(text), kind)


def _clean(text: str) -> str:
    lines = inspect.cleandoc(text).split("\n")
    return "\n".join(line.rstrip() for line in lines).strip("\n")


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def _shingles(text: str) -> frozenset[tuple[str, ...]]:
    words = _words(text)
    width = min(SHINGLE_WORDS, len(words))
    return frozenset(tuple(words[i : i + width]) for i in range(len(words) - width + 1))


def _bucket(text: str) -> int:
    """A text's place from 0 to 999, the same on every machine."""
    digest = hashlib.sha256(" ".join(_words(text)).encode()).digest()
    return int.from_bytes(digest[:8], "big") % 1000
