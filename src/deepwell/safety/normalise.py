"""`normalised`: the readings of a text that detectors look at, with the way back to its characters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from deepwell.safety.readings.ciphers import deciphered, reversed_text
from deepwell.safety.readings.fold import fold
from deepwell.safety.readings.joined import joined
from deepwell.safety.readings.leet import leet
from deepwell.safety.readings.unwrap import unwrapped
from deepwell.safety.readings.view import View, positions

__all__ = ["Normalised", "View", "normalised"]

_MAX_DEPTH: Final = 2
_MAX_GROWTH: Final = 6
_MIN_ROOM: Final = 4096


@dataclass(frozen=True, slots=True)
class Normalised:
    """A text and its readings. `views[0]` is the folded one; unwrapped ones follow, folded as well."""

    text: str
    views: Sequence[View]


def normalised(text: str) -> Normalised:
    """Returns the readings of a text.

    The first is `folded`: letters without case, width, accents, disguise and invisible characters between them; Chinese in
    simplified characters; white space single. Others follow where there is something to read: `joined` (spaced letters),
    `leet`, `rot13`, `caesar`, `atbash`, `vigenere`, `reversed`, and the codes that were unwrapped, to a depth of two, such as
    `base64` or `url+html`. All readings together have at most six times the characters of the text, plus 4,096.
    """
    room = _MAX_GROWTH * len(text) + _MIN_ROOM
    source = View("", text, positions(len(text) + 1))
    folded = fold(source)
    views = [_named(folded.view, "folded")]
    for _ in range(_MAX_DEPTH):
        room -= len(views[-1].text)
        inner = unwrapped(source, min(room, _MAX_GROWTH * len(text)))
        if inner is None:
            break
        source, folded = inner, fold(inner)
        views.append(_named(folded.view, inner.name))
    reading = views[-1]
    # What is unwrapped stands in its place, so that the last reading holds all there is to decipher.
    prefix = source.name + "+" if source.name else ""
    whole = joined(prefix + "joined", source, folded)
    letters = whole or reading  # a cipher keeps its spaces, or has lost them to joining
    for view in (
        whole,
        leet(prefix + "leet", letters),
        *deciphered(letters, prefix),
        reversed_text(letters, prefix),
    ):
        if view is not None and len(view.text) <= room:
            room -= len(view.text)
            views.append(view)
    return Normalised(text, views)


def _named(view: View, name: str) -> View:
    return View(name, view.text, view.starts, view.ends)
