"""Inside quiet, transformers says nothing; afterwards everything is as it was."""

import logging

import pytest
from transformers.utils import logging as bars

from graphopt.frontend.quiet import quiet


def watched(logger: logging.Logger) -> None:
    with quiet():
        assert not logger.isEnabledFor(logging.WARNING)
        assert not bars.is_progress_bar_enabled()
        raise ValueError("out")


def test_warnings_and_bars_are_off_inside_and_back_afterwards() -> None:
    logger = logging.getLogger("transformers")
    level, drawn = logger.level, bars.is_progress_bar_enabled()
    with pytest.raises(ValueError, match="out"):
        watched(logger)
    assert logger.level == level
    assert bars.is_progress_bar_enabled() == drawn


def test_torch_logs_no_traceback_of_its_own() -> None:
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    level = logger.level
    with quiet():
        assert not logger.isEnabledFor(logging.ERROR)
    assert logger.level == level
