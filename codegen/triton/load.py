"""Generated Python as a module: a file named by its content, so that errors point at real lines."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sys
import tempfile
from pathlib import Path
from types import ModuleType

from graphopt.cache import cache_folder

_PREFIX = "graphopt_generated_"


def load_module(name: str, text: str) -> ModuleType:
    """The module that ``text`` defines; the same text is loaded once.

    Args:
        name: what to call its file, besides the hash of its text.
        text: Python.

    Raises:
        Exception: whatever running the text raises.
    """
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    module_name = f"{_PREFIX}{name}_{digest}"
    if module_name in sys.modules:
        return sys.modules[module_name]
    path = _written(f"{name}_{digest}.py", text)
    spec = importlib.util.spec_from_file_location(module_name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"no Python file: {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[module_name]
        raise
    return module


def _written(name: str, text: str) -> Path:
    """A file in the cache that holds ``text``, whoever else writes it at the same time."""
    path = cache_folder() / "generated" / name
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return path
