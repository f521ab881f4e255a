"""Finds the applications in `examples/`, which lie in the repository and not in the package."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

from deepwell_bench.harness.assets import repository

__all__ = ["example"]


def example(name: str) -> ModuleType:
    """Returns a module of an application, such as `finance.review`.

    Raises:
        DeepwellError: the package is installed without its repository.
    """
    root = str(repository())
    if root not in sys.path:
        sys.path.append(root)
    return importlib.import_module(f"examples.{name}")
