"""`normalised`: the readings of a text that detectors look at, with the way back to its characters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Normalised", "View", "normalised"]


@dataclass(frozen=True, slots=True)
class View:
    """One reading of a text.

    Attributes:
        name: `folded`, or the name of what was unwrapped: `base64`, `hex`, `url`, `rot13`, ...
        text: the reading.
        starts: int32 [characters + 1]; `starts[i]` is the character of the original at which character i begins.
    """

    name: str
    text: str
    starts: NDArray[np.int32]

    def span(self, start: int, end: int) -> tuple[int, int]:
        """Returns the characters of the original that characters `start` to `end` of this reading stand for."""
        return int(self.starts[start]), int(
            self.starts[max(end, start + 1)] if start < end else self.starts[end]
        )


@dataclass(frozen=True, slots=True)
class Normalised:
    """A text and its readings. `views[0]` is the folded one; unwrapped ones follow, folded as well."""

    text: str
    views: Sequence[View]


def normalised(text: str) -> Normalised:
    """Returns the readings of a text."""
    return Normalised(
        text, [View("folded", text.casefold(), np.arange(len(text.casefold()) + 1, dtype=np.int32))]
    )
