"""The installed version."""

from __future__ import annotations

from functools import cache
from importlib.metadata import PackageNotFoundError, version

__all__ = ["deepwell_version"]


@cache
def deepwell_version() -> str:
    """Returns the version of the installed distribution, or `0+source` when run from a source tree only."""
    try:
        return version("deepwell")
    except PackageNotFoundError:
        return "0+source"
