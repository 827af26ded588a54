"""Which version of graphopt this is, without importing what that version can do."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def release() -> str:
    """The installed version; empty for a checkout on the path that is not installed."""
    try:
        return version("graphopt")
    except PackageNotFoundError:
        return ""
