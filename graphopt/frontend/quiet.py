"""transformers without its warnings and progress bars: we say ourselves what a user should know."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module


@contextmanager
def quiet() -> Iterator[None]:
    """Within it, transformers logs errors only and draws nothing."""
    bars = import_module("transformers.utils.logging")
    logger = logging.getLogger("transformers")
    level, drawn = logger.level, bars.is_progress_bar_enabled()
    logger.setLevel(logging.ERROR)
    bars.disable_progress_bar()
    try:
        yield
    finally:
        logger.setLevel(level)
        if drawn:
            bars.enable_progress_bar()
