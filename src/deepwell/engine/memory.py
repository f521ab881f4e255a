"""Low-rank memory of a window: tokens that leave it are kept as factors of their keys and values, and still attended to."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from deepwell.engine.backends.backend import KVCache, Model
from deepwell.engine.backends.specs import MemorySpec
from deepwell.engine.batch import Memory
from deepwell.engine.window import Window
from deepwell.errors import InvalidRequest

__all__ = ["factor_memory", "memory_spec"]


def memory_spec(window: Window, positions: int) -> MemorySpec:
    """Returns the factors that a window asks for, in a model that knows so many positions.

    A segment is what leaves the window at once. Its tokens are seen where they stood, but none farther from the end of a full
    window than the model's positions reach.
    """
    return MemorySpec(
        tokens=window.stride,
        first=window.sinks,
        key_rank=window.rank,
        value_rank=window.rank,
        floor=window.tokens - positions,
        most=-(-window.remembered // window.stride),
    )


def factor_memory(
    model: Model, cache: KVCache, window: Window, positions: int
) -> Callable[[], Memory] | None:
    """Returns what makes empty memories for sequences with this window; None: their forgotten tokens are lost.

    Raises:
        InvalidRequest: the model cannot keep factors of this rank.
    """
    if not window.rank:
        return None
    make = partial(model.memory, cache, memory_spec(window, positions))
    try:
        make()
    except (TypeError, ValueError):
        raise InvalidRequest.of("window_rank", param="window", rank=window.rank) from None
    return make
