"""Readers of alphabets that people write: Morse, Braille, the spelling alphabet; and of hidden characters."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from deepwell.safety.readings.encodings import Found, readable

__all__ = ["braille", "equations", "hidden", "morse", "spelled"]

# ITU-R M.1677-1.
_MORSE: Final = dict(
    zip(
        ".- -... -.-. -.. . ..-. --. .... .. .--- -.- .-.. -- -. --- .--. --.- .-. ... - ..- ...- .-- -..- -.-- --.. "
        "----- .---- ..--- ...-- ....- ..... -.... --... ---.. ----. .-.-.- --..-- ..--.. -..-. -....- -.-.-- ---... "
        "-.-.-. .----. .-..-. -.--. -.--.- -...-".split(),
        "abcdefghijklmnopqrstuvwxyz0123456789.,?/-!:;'\"()=",
        strict=True,
    )
)
_MORSE_RUN: Final = re.compile(r"[.\-][.\-]{0,6}(?:[ /|\n]{1,3}[.\-]{1,7}){5,}")
_CELLS: Final = dict(
    zip(
        "⠁⠃⠉⠙⠑⠋⠛⠓⠊⠚⠅⠇⠍⠝⠕⠏⠟⠗⠎⠞⠥⠧⠺⠭⠽⠵⠲⠂⠖⠦⠤⠒⠆⠄⠌ ",
        "abcdefghijklmnopqrstuvwxyz.,!?-:;'/ ",
        strict=True,
    )
)
_CELL_DIGITS: Final = dict(zip("⠁⠃⠉⠙⠑⠋⠛⠓⠊⠚", "1234567890", strict=True))
_CELL_RUN: Final = re.compile(r"[⠁-⣿][⠀-⣿ \n]*")
_WORDS: Final[dict[str, str]] = dict(
    zip(
        "alfa alpha bravo charlie delta echo foxtrot golf hotel india juliett juliet kilo lima mike november oscar papa "
        "quebec romeo sierra tango uniform victor whiskey xray x-ray yankee zulu".split(),
        "aabcdefghijjklmnopqrstuvwxxyz",
        strict=True,
    )
)
_SPELLED: Final = re.compile(rf"\b(?:{'|'.join(_WORDS)})\b", re.IGNORECASE)
_SPELLED_GATE: Final = ("foxtrot", "sierra", "tango", "november", "romeo", "whiskey", "uniform", "echo")
_EQUATION: Final = re.compile(r"(\S) = [0-9]{1,3}(\S) - [0-9]{1,3}(\S)(?:[ ]{1,4}<[^>\n]{0,120}>)?")
_TAGS: Final = re.compile("[\U000e0001-\U000e007f]+")
_SELECTORS: Final = re.compile("[\ufe00-\ufe0f\U000e0100-\U000e01ef]{4,}")
_BITS: Final = re.compile("[\u2062\u2064]{32,}|[\u200b\u200c\u200d]{32,}")


def hidden(text: str) -> Iterator[Found]:
    """Yields text in tag characters, in variation selectors that stand for bytes, and in invisible bits."""
    if text.isascii():
        return
    if len(text.encode("utf-16-le", "surrogatepass")) > 2 * len(text):
        yield from _smuggled(text)
    if any(sign in text for sign in "\u2062\u2064\u200b\u200c"):
        yield from _bits(text)


def _smuggled(text: str) -> Iterator[Found]:
    for match in _TAGS.finditer(text):
        reading = "".join(chr(ord(c) - 0xE0000) for c in match[0] if 0xE0020 <= ord(c) <= 0xE007E)
        yield Found(match.start(), match.end(), reading, "tags")
    for match in _SELECTORS.finditer(text):
        data = bytes(ord(c) - 0xFE00 if ord(c) < 0x10000 else ord(c) - 0xE0100 + 16 for c in match[0])
        reading = readable(data)
        if reading is not None:
            yield Found(match.start(), match.end(), reading, "selectors")


def _bits(text: str) -> Iterator[Found]:
    for match in _BITS.finditer(text):
        zero = "\u2062" if match[0][0] in "\u2062\u2064" else "\u200b"
        bits = "".join("0" if c == zero else "1" for c in match[0])
        reading = readable(bytes(int(bits[at : at + 8], 2) for at in range(0, len(bits) - 7, 8)))
        if reading is not None:
            yield Found(match.start(), match.end(), reading, "bits")


def morse(text: str) -> Iterator[Found]:
    """Yields runs of six and more letters in Morse code; a stroke or a wide gap parts words."""
    if text.count("-") + text.count(".") < 12:
        return
    for match in _MORSE_RUN.finditer(text):
        letters = re.findall(r"[.\-]+|[ /|\n]+", match[0])
        out: list[str] = []
        unknown = 0
        for letter in letters:
            if letter[0] in ".-":
                found = _MORSE.get(letter)
                unknown += found is None
                out.append(found or "")
            elif letter != " ":
                out.append(" ")
        reading = "".join(out)
        if unknown * 5 <= len(letters) and len(set(reading)) > 3:
            yield Found(match.start(), match.end(), reading, "morse")


def braille(text: str) -> Iterator[Found]:
    """Yields runs of Braille patterns, as letters of the first grade."""
    if text.isascii():
        return
    for match in _CELL_RUN.finditer(text):
        out: list[str] = []
        number = False
        for cell in match[0].replace("⠀", " "):
            if cell == "⠼":
                number = True
                continue
            if cell == "⠠":
                continue
            if number and cell in _CELL_DIGITS:
                out.append(_CELL_DIGITS[cell])
                continue
            number = False
            out.append(_CELLS.get(cell, "\n" if cell == "\n" else ""))
        yield Found(match.start(), match.end(), "".join(out), "braille")


def spelled(text: str) -> Iterator[Found]:
    """Yields four and more words in a row of the spelling alphabet of the ITU and NATO, and what single signs stand between."""
    low = text.lower()
    if sum(word in low for word in _SPELLED_GATE) < 2:
        return
    run: list[str] = []
    begin = end = 0
    count = 0
    for match in _SPELLED.finditer(text):
        between = text[end : match.start()]
        gap = between.strip()
        if run and (gap == "<space>" or (len(gap) <= 2 and len(between) <= 5)):
            run.append(" " if gap == "<space>" else gap or (" " if len(between) > 1 else ""))
        else:
            if count >= 4:
                yield Found(begin, end, "".join(run), "nato")
            run, begin, count = [], match.start(), 0
        run.append(_WORDS[match[0].lower()])
        count += 1
        end = match.end()
    if count >= 4:
        yield Found(begin, end, "".join(run), "nato")


def equations(text: str) -> Iterator[Found]:
    """Yields lines such as `x = 5x - 4x`, each of which stands for its letter; an empty line parts words."""
    if text.count(" = ") < 4:
        return
    run: list[str] = []
    begin = end = 0
    for match in _EQUATION.finditer(text):
        if not match[1] == match[2] == match[3]:
            continue
        between = text[end : match.start()]
        if run and not between.strip() and len(between) < 9:
            run.append(" " if between.count("\n") > 1 else "")
        else:
            if len(run) > 6:
                yield Found(begin, end, "".join(run), "equations")
            run, begin = [], match.start()
        run.append(match[1])
        end = match.end()
    if len(run) > 6:
        yield Found(begin, end, "".join(run), "equations")
