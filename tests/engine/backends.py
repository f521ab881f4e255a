"""The backends under test."""

from __future__ import annotations

from typing import Any

from tests.needs import NATIVE, require

from deepwell.engine.backends import native, reference


def backend(name: str) -> Any:
    if name == "reference":
        return reference
    require(NATIVE)
    return native
