"""The engine process of tests of models on demand: it imports nothing else, so that it starts at once."""

from __future__ import annotations

import threading
from typing import Any


def never(progress: Any, **arguments: Any) -> Any:
    """An engine that is loaded for minutes."""
    threading.Event().wait(300)


def broken(progress: Any, **arguments: Any) -> Any:
    """An engine that cannot be loaded."""
    raise RuntimeError("no")
