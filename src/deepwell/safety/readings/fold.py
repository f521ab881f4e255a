"""`folded`: letters without case, width, accents and disguise; Chinese in simplified characters; no invisible ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from deepwell.safety.compiled import extension
from deepwell.safety.readings.tables import EXPANDED, SIZE, SPACE, fold_tables
from deepwell.safety.readings.view import Codes, Index, View, codes_of, positions, text_of

__all__ = ["Folded", "fold", "numpy_fold_codes"]

_ASCII: Final = str.maketrans("\t\x1c\x1d\x1e\x1f\r\x0b\x0c", "     \n\n\n")
_BACKSPACE: Final = 8


@dataclass(frozen=True, slots=True)
class Folded:
    """A folded reading, and its characters before runs of white space were made one.

    Attributes:
        view: the reading; a run of white space is its first character.
        codes: the folded characters, white space as it stood.
        kept: int32; the character of the source that each of `codes` comes from.
        classes: uint8; the class of each of `codes`.
    """

    view: View
    codes: Codes
    kept: Index
    classes: NDArray[np.uint8]


def fold(source: View) -> Folded:
    """Returns the folded reading of a source."""
    text = source.text
    tables = fold_tables()
    if text.isascii():
        low = text.translate(_ASCII).lower()
        if _is_even(low):
            codes = np.frombuffer(low.encode("ascii"), np.uint8).astype(np.uint32)
            view = View(source.name, low, source.starts, source.ends)
            return Folded(view, codes, positions(len(codes)), tables.classes[codes])
    native = extension()
    if native is None or "\b" in text:
        codes, kept, classes, single = numpy_fold_codes(codes_of(text))
    else:
        codes, kept, classes, single = native.fold_codes(
            codes_of(text), tables.folded, tables.expansions, tables.classes
        )
    if single is None:
        view = source.taken(source.name, text_of(codes), kept)
    else:
        view = source.taken(source.name, text_of(codes[single]), kept[single])
    return Folded(view, codes, kept, classes)


def numpy_fold_codes(codes: Codes) -> tuple[Codes, Index, NDArray[np.uint8], Index | None]:
    """Returns the folded characters, the place that each comes from, its class, and which are left when white space is single.

    The last is None where no white space repeats. The extension does the same.
    """
    out, kept = _folded(codes)
    classes = fold_tables().classes[np.minimum(out, SIZE - 1)]
    space = classes == SPACE
    repeated = np.zeros(len(out), np.bool_)
    np.logical_and(space[1:], space[:-1], out=repeated[1:])
    single = np.flatnonzero(~repeated).astype(np.int32) if repeated.any() else None
    return out, kept, classes, single


def _is_even(low: str) -> bool:
    """Returns whether a text has white space by single characters alone, and no other control character."""
    flat = low.replace("\n", " ")
    return "  " not in flat and flat.isprintable()


def _folded(codes: Codes) -> tuple[Codes, Index]:
    """Returns folded characters and, for each, the place of the one it comes from."""
    tables = fold_tables()
    if len(codes) and int(codes.max()) >= SIZE:
        high = codes >= SIZE
        mapped = tables.folded[np.where(high, 0, codes)]
        mapped[high] = np.where((codes[high] >> 12) == 0xE0, 0, codes[high])
    else:
        mapped = tables.folded[codes]
    if (codes == _BACKSPACE).any():
        mapped = _without_erased(codes, mapped)
    expanded = mapped >= EXPANDED
    if expanded.any():
        lengths = (mapped != 0).astype(np.int64)
        lengths[expanded] = tables.lengths[mapped[expanded] - EXPANDED]
        kept = np.repeat(positions(len(codes)), lengths)
        within = np.arange(len(kept)) - (np.cumsum(lengths) - lengths)[kept]
        out = mapped[kept]
        several = out >= EXPANDED
        out[several] = tables.expansions[out[several] - EXPANDED, within[several]]
        return out, kept
    kept = np.flatnonzero(mapped).astype(np.int32)
    return (mapped, kept) if len(kept) == len(codes) else (mapped[kept], kept)


def _without_erased(codes: Codes, mapped: Codes) -> Codes:
    """Returns `mapped` without the characters that a backspace behind them erases."""
    mapped = mapped.copy()
    left: list[int] = []
    for at, code in enumerate(codes.tolist()):
        if code == _BACKSPACE:
            if left:
                mapped[left.pop()] = 0
        elif mapped[at]:
            left.append(at)
    return mapped
