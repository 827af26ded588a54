"""transformers and torch without their own words: we say ourselves what a user should know."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module


@contextmanager
def quiet() -> Iterator[None]:
    """Within it, transformers logs errors only and draws nothing.

    torch logs no traceback of an operator that got sizes it cannot take: the exception says it.
    """
    bars = import_module("transformers.utils.logging")
    logger, sizes = map(logging.getLogger, ("transformers", "torch._subclasses.fake_tensor"))
    levels, drawn = (logger.level, sizes.level), bars.is_progress_bar_enabled()
    logger.setLevel(logging.ERROR)
    sizes.setLevel(logging.CRITICAL)
    bars.disable_progress_bar()
    try:
        yield
    finally:
        for each, level in zip((logger, sizes), levels, strict=True):
            each.setLevel(level)
        if drawn:
            bars.enable_progress_bar()
