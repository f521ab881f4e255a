"""`unwrapped`: a text with what it holds in base64, hex, percent signs, entities, escapes, Morse, ... read in place."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from deepwell.safety.readings import alphabets, encodings
from deepwell.safety.readings.encodings import Found
from deepwell.safety.readings.view import View

__all__ = ["unwrapped"]

_READERS: Final[tuple[Callable[[str], Iterable[Found]], ...]] = (
    alphabets.hidden,
    encodings.terminal,
    encodings.entities,
    encodings.percent,
    encodings.escapes,
    encodings.quoted_printable,
    encodings.binary,
    encodings.separated_bytes,
    alphabets.morse,
    alphabets.braille,
    alphabets.spelled,
    alphabets.equations,
    encodings.uuencode,
    encodings.tokens,
)


def unwrapped(source: View, max_characters: int) -> View | None:
    """Returns the text with every code in it read in place, named after these codes; None where it holds none.

    A decoded character stands for all characters of the code it comes from.

    Args:
        max_characters: most characters of the reading; codes beyond stay as they are.
    """
    found = sorted(found for reader in _READERS for found in reader(source.text))
    if not found:
        return None
    return _replaced(source, found, max_characters)


def _replaced(source: View, found: list[Found], max_characters: int) -> View | None:
    text = source.text
    count = len(text)
    firsts = source.starts[:count]
    lasts = source.starts[1:] if source.ends is None else source.ends
    pieces: list[str] = []
    begins: list[int] = []
    stops: list[int] = []
    lengths: list[int] = []
    names: dict[str, None] = {}
    done, room = 0, max_characters - count
    for start, end, reading, name in found:
        if start < done or len(reading) - (end - start) > room:
            continue
        room -= len(reading) - (end - start)
        pieces += (text[done:start], reading)
        begins.append(start)
        stops.append(end)
        lengths.append(len(reading))
        names[name] = None
        done = end
    if not names:
        return None
    pieces.append(text[done:])
    first, last = _places(count, np.array(begins), np.array(stops), np.array(lengths))
    starts = np.concatenate((firsts[first], source.starts[count:]))
    inside = [source.name] if source.name else []
    return View("+".join((*inside, *names)), "".join(pieces), starts, lasts[last])


def _places(
    count: int, begins: NDArray[np.intp], stops: NDArray[np.intp], lengths: NDArray[np.intp]
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Returns for each character of a reading the first and the last character of the text that it stands for.

    Args:
        count: characters of the text.
        begins, stops, lengths: where each code begins and ends, and the characters that are read in its place.
    """
    edges = np.zeros(count + 1, np.int8)
    edges[begins] += 1
    edges[stops] -= 1
    times = (np.cumsum(edges[:-1]) == 0).astype(np.intp)
    times[begins] = lengths
    first = np.arange(count)
    last = first.copy()
    last[begins] = stops - 1
    return np.repeat(first, times), np.repeat(last, times)
