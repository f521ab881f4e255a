"""`extension`: the compiled versions of the loops over characters, which stand beside their versions in numpy."""

from __future__ import annotations

import importlib
from functools import cache
from typing import Any

__all__ = ["extension"]


@cache
def extension() -> Any:
    """Returns the extension module; None where it was not built, and numpy does the same in more time."""
    try:
        module = importlib.import_module("deepwell._native")
    except ImportError:
        return None
    return module if hasattr(module, "gram_sums") else None
