"""`numbers_in`: the numbers of a text that people or models wrote."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

__all__ = ["numbers_in"]

_NUMBER: Final = re.compile(r"(?<![A-Za-z0-9_.])[-+]?[0-9][0-9,]*(?:\.[0-9]+)?(?![A-Za-z0-9_])")
_MOST_TEXT: Final = 200_000
_MOST_DIGITS: Final = 30
_DIGITS: Final = str.maketrans("０１２３４５６７８９", "0123456789")


def numbers_in(text: str) -> Iterator[tuple[str, float, int]]:
    """Yields numbers as they are written, their values and their decimals. A sign may be a dash, so it is not counted."""
    for found in _NUMBER.finditer(text.translate(_DIGITS)[:_MOST_TEXT]):
        plain = found[0].lstrip("+-").replace(",", "")
        if len(plain) <= _MOST_DIGITS:
            yield found[0], float(plain), len(plain.partition(".")[2])
