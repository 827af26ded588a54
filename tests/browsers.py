"""The browser that is installed, driven without a window."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, sync_playwright

from tools.setup.browser import find

# Nothing that a browser does on its own, such as asking for updates, belongs to a test.
ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@contextmanager
def installed_browser() -> Iterator[Browser]:
    """Chromium or Chrome; the test fails where there is none."""
    path = find()
    if path is None:
        pytest.fail("there is no browser: install Chromium, or name one in $GRAPHOPT_BROWSER")
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=path, args=[*ARGUMENTS])
        yield found
        found.close()
