"""`View`: one reading of a text, with the way back to its characters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["Codes", "Index", "View", "codes_of", "positions", "text_of"]

Codes = NDArray[np.uint32]
Index = NDArray[np.int32]

_POSITIONS: Final = np.arange(1 << 14, dtype=np.int32)
_POSITIONS.setflags(write=False)


@dataclass(frozen=True, slots=True)
class View:
    """One reading of a text.

    Attributes:
        name: `folded`, or the name of what was unwrapped: `base64`, `hex`, `url`, `rot13`, ...
        text: the reading.
        starts: int32 [characters + 1]; `starts[i]` is the character of the original at which character i begins.
        ends: int32 [characters]; `ends[i]` is the character of the original behind character i. None: `starts[i + 1]`.
    """

    name: str
    text: str
    starts: Index
    ends: Index | None = None

    def span(self, start: int, end: int) -> tuple[int, int]:
        """Returns the characters of the original that characters `start` to `end` of this reading stand for."""
        if start >= end:
            at = int(self.starts[start])
            return at, at
        if self.ends is None:
            return int(self.starts[start]), int(self.starts[end])
        return int(self.starts[start:end].min()), int(self.ends[start:end].max())

    def taken(self, name: str, text: str, kept: Index) -> View:
        """Returns a reading whose character i stands for character `kept[i]` of this one, which never falls."""
        starts = np.empty(len(kept) + 1, np.int32)
        np.take(self.starts, kept, out=starts[:-1])
        starts[-1] = self.starts[-1]
        if self.ends is not None:
            return View(name, text, starts, self.ends[kept])
        several = len(kept) > 1 and bool((kept[1:] == kept[:-1]).any())
        return View(name, text, starts, self.starts[kept + 1] if several else None)


def positions(count: int) -> Index:
    """Returns the numbers from 0 to `count - 1`; not to be written to."""
    return _POSITIONS[:count] if count <= len(_POSITIONS) else np.arange(count, dtype=np.int32)


def codes_of(text: str) -> Codes:
    """Returns the code points of a text, lone surrogates included."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


def text_of(codes: Codes) -> str:
    """Returns the text of code points."""
    return codes.astype("<u4", copy=False).tobytes().decode("utf-32-le", "surrogatepass")
