"""The backends under test. In CI a missing extension is a failure, elsewhere a skip."""

from __future__ import annotations

import os
from typing import Any

import pytest

from deepwell.engine.backends import native, reference


def backend(name: str) -> Any:
    if name == "reference":
        return reference
    if not native.is_available():
        message = "the compiled extension is missing"
        if os.environ.get("CI", "").lower() in ("1", "true"):
            pytest.fail(message)
        pytest.skip(message)
    return native
