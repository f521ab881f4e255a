"""`SketchTexts` and `SpreadSketcher`: the sketches by which near-duplicates are found, computed piece by piece."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
from msgspec import Struct

from deepwell.fleet.pieces.finish import finish
from deepwell.fleet.pieces.kept import KeptPieces
from deepwell.fleet.pieces.piece import Executor, Facts, Tally
from deepwell.tuning.data.minhash import BANDS, ROWS, Sketches, sketch

__all__ = ["SketchTexts", "SpreadSketcher", "texts_of", "texts_payload"]

_TEXTS = 2048  # of a piece
_CHARACTERS = 4 << 20


class _Packed(Struct, array_like=True):
    """Sketches as bytes, in little-endian order."""

    count: int
    keys: bytes
    rows: bytes
    sequences: bytes
    filled: bytes


_payloads = msgspec.msgpack.Decoder(list[bytes])
_packed = msgspec.msgpack.Decoder(_Packed)
_encode = msgspec.msgpack.Encoder().encode


def texts_payload(texts: Sequence[str]) -> bytes:
    """Returns the payload of a piece of texts; JSON may have lone surrogates, which UTF-8 has not."""
    return _encode([text.encode("utf-8", "surrogatepass") for text in texts])


def texts_of(payload: bytes) -> list[str]:
    """Returns the texts of a payload."""
    return [text.decode("utf-8", "surrogatepass") for text in _payloads.decode(payload)]


@dataclass(frozen=True, slots=True)
class SketchTexts:
    """Computes sketches of texts, whose shingles have `width` units."""

    width: int

    def spec(self) -> dict[str, str | int | float | bool | None]:
        """Returns every value that sketches depend on."""
        return {"kind": "sketches", "width": self.width, "bands": BANDS, "rows": ROWS}

    def open(self) -> _Sketching:
        """Returns what computes them, which needs no model."""
        return _Sketching(self.width)


class _Sketching:
    """Computes sketches in this process."""

    def __init__(self, width: int) -> None:
        from deepwell.version import deepwell_version

        self._width = width
        self.facts = Facts(deepwell_version())

    def run(self, payload: bytes) -> bytes:
        """Returns the packed sketches of a piece of texts."""
        texts = texts_of(payload)
        made = sketch(texts, self._width)
        return _encode(
            _Packed(
                len(texts),
                made.keys.astype("<u8").tobytes(),
                made.rows.tobytes(),
                made.sequences.astype("<u8").tobytes(),
                made.filled.tobytes(),
            )
        )

    def close(self) -> None:
        """Has nothing to free."""


class SpreadSketcher:
    """Computes sketches piece by piece, as `minhash.sketch` does at once.

    Attributes:
        tally: counts of the pieces.
    """

    def __init__(self, executor: Executor, kept: KeptPieces) -> None:
        self._executor = executor
        self._kept = kept
        self.tally = Tally()

    def __call__(self, texts: Sequence[str], width: int, advance: Callable[[int], None]) -> Sketches:
        """Returns the sketches of texts.

        Raises:
            DeepwellError: a piece cannot be computed.
        """
        spans = list(_spans(texts))
        payloads = (texts_payload(texts[begin:end]) for begin, end in spans)

        def ended(index: int) -> None:
            begin, end = spans[index]
            advance(end - begin)

        done = finish(self._executor, SketchTexts(width), payloads, self._kept, ended)
        self.tally = done.tally
        count = len(texts)
        made = Sketches(
            np.empty((BANDS, count), np.uint64),
            np.empty((count, BANDS * ROWS), np.uint8),
            np.empty(count, np.uint64),
            np.empty(count, bool),
        )
        for (begin, end), result in zip(spans, done.results(), strict=True):
            part = _packed.decode(result)
            made.keys[:, begin:end] = np.frombuffer(part.keys, "<u8").reshape(BANDS, part.count)
            made.rows[begin:end] = np.frombuffer(part.rows, np.uint8).reshape(part.count, BANDS * ROWS)
            made.sequences[begin:end] = np.frombuffer(part.sequences, "<u8")
            made.filled[begin:end] = np.frombuffer(part.filled, bool)
        return made


def _spans(texts: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Yields runs of texts that make a piece."""
    begin, size = 0, 0
    for end, text in enumerate(texts, 1):
        size += len(text)
        if end - begin == _TEXTS or size >= _CHARACTERS:
            yield begin, end
            begin, size = end, 0
    if begin < len(texts):
        yield begin, len(texts)
