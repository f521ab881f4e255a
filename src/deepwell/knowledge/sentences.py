"""Cuts text into sentences and lines, in English, Chinese and other languages that end sentences as they do."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

__all__ = ["sentence_spans"]

# Each alternative is bounded: a run of a million dots must not be read a million times.
_ENDS: Final = re.compile(
    r"[.!?…][\"'”’)\]»]{0,4}(?=\s)"  # the last of a run of marks, behind which a space follows
    r"|[。！？；｡]+[”’」』）)\]\"'》】]*"
    r"|\n"
)
_SPACE: Final = re.compile(r"\s*")
_ABBREVIATIONS: Final = frozenset(
    "mr mrs ms dr prof st jr sr inc ltd co corp vs etc al fig figs eq no nos vol pp ed eds cf ca approx dept est "
    "e.g i.e u.s u.k a.m p.m ph.d jan feb mar apr jun jul aug sep sept oct nov dec art sec".split()
)
_LAST_WORD: Final = re.compile(r"[\w.]+$")
_MIN_WRAPPED = 40  # characters of a line that was wrapped in the middle of a sentence
_MIN_WRAPPED_HAN = 20
_GOES_ON = ",，、;-–—("


def sentence_spans(text: str, start: int = 0, end: int | None = None) -> Iterator[tuple[int, int]]:
    """Yields start and end of every sentence of `text[start:end]`, without the space around it.

    A line end ends a sentence too, unless the line is long and its last and the next first character read on: text that was
    wrapped at a width. A full stop before a small letter, behind an abbreviation or an initial ends none.
    """
    end = len(text) if end is None else end
    begin = _after_space(text, start, end)
    for found in _ENDS.finditer(text, start, end):
        if found.start() < begin:
            continue
        mark = found[0][0]
        if mark == "\n":
            ends = not _is_wrapped(text, begin, found.start(), end)
        else:
            ends = mark != "." or not _is_abbreviation(text, begin, found, end)
        if ends:
            stop = _before_space(text, begin, found.end())
            if stop > begin:
                yield begin, stop
            begin = _after_space(text, found.end(), end)
    stop = _before_space(text, begin, end)
    if stop > begin:
        yield begin, stop


def _after_space(text: str, at: int, end: int) -> int:
    found = _SPACE.match(text, at, end)
    return found.end() if found is not None else at


def _after_indent(text: str, at: int, end: int) -> int:
    while at < end and text[at] in " \t\u3000":
        at += 1
    return at


def _before_space(text: str, begin: int, end: int) -> int:
    while end > begin and text[end - 1].isspace():
        end -= 1
    return end


def _is_wrapped(text: str, begin: int, at: int, end: int) -> bool:
    after = _after_indent(text, at + 1, end)
    following = text[after : after + 1] if after < end else ""
    last = text[at - 1] if at > begin else ""
    if not following or following.isspace() or not last:
        return False
    line = at - max(text.rfind("\n", begin, at), begin - 1) - 1
    if _is_han(following):
        return line >= _MIN_WRAPPED_HAN and (_is_han(last) or last in _GOES_ON)
    return line >= _MIN_WRAPPED and following.islower() and (last.isalnum() or last in _GOES_ON)


def _is_abbreviation(text: str, begin: int, found: re.Match[str], end: int) -> bool:
    after = _after_space(text, found.end(), end)
    if after < end and text[after].islower() and "\n" not in text[found.end() : after]:
        return True
    word = _LAST_WORD.search(text, max(begin, found.start() - 12), found.start())
    if word is None:
        return False
    if word[0].isdigit():  # "1. Install the package" is an item of a list
        line = text.rfind("\n", begin, word.start()) + 1
        return word.start() == max(line, begin)
    return (len(word[0]) == 1 and word[0].isupper()) or word[0].lower() in _ABBREVIATIONS


def _is_han(character: str) -> bool:
    return "\u3400" <= character <= "\u9fff" or "\uf900" <= character <= "\ufaff"
