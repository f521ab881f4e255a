"""Readers of encodings that programs write: base64, hex, percent signs, entities, escapes, uuencode, bits."""

from __future__ import annotations

import base64
import binascii
import html
import re
from collections.abc import Iterator
from typing import Final, NamedTuple

from deepwell.safety.compiled import extension
from deepwell.safety.readings.view import codes_of

__all__ = [
    "Found",
    "binary",
    "entities",
    "escapes",
    "percent",
    "quoted_printable",
    "readable",
    "separated_bytes",
    "terminal",
    "tokens",
    "uuencode",
]


class Found(NamedTuple):
    """A code in a text: the first character, the one behind the last, what it reads as, and the code's name."""

    start: int
    end: int
    reading: str
    name: str


# Every pattern below is a class or a literal repeated, without nested repeats: linear for the backtracking engine. One that
# begins with a literal or a class, outside of repeats and groups, passes over other characters ten times as fast.
_TERMINAL: Final = re.compile(
    r"(?:\x1b\[|\x9b)[0-9;?]{0,20}[@-~]|(?:\x1b\]|\x9d)[^\x07\x1b]{0,200}(?:\x07|\x1b\\)"
)
_ENTITY: Final = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,30});")
_PERCENT: Final = re.compile(r"%[0-9A-Fa-f]{2}(?:%[0-9A-Fa-f]{2})*")
_QUOTED: Final = re.compile(r"=(?:[0-9A-F]{2}(?:=[0-9A-F]{2})*|\r?\n)")
_ESCAPE: Final = re.compile(
    r"\\(?:u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|u\{[0-9a-fA-F]{1,6}\}|x[0-9a-fA-F]{2}|(?<![/-]\\)[nrt\"'/\\])"
    r"|u\+[0-9a-fA-F]{4,6}|U\+[0-9a-fA-F]{4,6}"
)
_BITS: Final = re.compile(r"[01](?:[01]{6,31}(?:[ ,\n]{1,2}[01]{7,32}){3,}|[01]{39,})")
# The first byte is an ASCII character: text in it is told from words by its first digit.
_HEX_PAIRS: Final = re.compile(
    r"[02-7](?:(?<=0)[xX][2-7]|(?<=[2-7]))[0-9a-fA-F](?:[ ,:]{1,2}(?:0[xX])?[0-9a-fA-F]{2}){7,}"
)
_DECIMALS: Final = re.compile(r"[0-9][0-9]{1,2}(?:[ ,]{1,2}[0-9]{2,3}){7,}")
_TOKEN: Final = re.compile(r"[A-Za-z0-9+/_-][A-Za-z0-9+/_-]{5,}={0,2}")
_ASCII85: Final = re.compile(r"(?<![!-~])[!-~]{20,}")
_MIN_TOKEN: Final = 8
_LONG_WORD: Final = re.compile(r"\S{8,}")
_MIN_ASCII85: Final = 20
_MAX_ASCII85: Final = 1 << 14
_ODD: Final = frozenset("!\"#$%&'()*;<>?@[\\]^`{|}~")
_HEX: Final = re.compile(r"(?:0[xX])?((?:[0-9a-fA-F]{2}){6,})")
_BASE32: Final = re.compile(r"[A-Z2-7]{16,}={0,6}")
_MIN_BYTES: Final = 4
_MIN_DIGITS: Final = 16
_MIN_QUOTED: Final = 3
_LONG: Final = 12
_BREAKS: Final = str.maketrans("\n\r\t", "   ")
_MIN_WORDY: Final = 0.6


def readable(data: bytes) -> str | None:
    """Returns the text that the bytes are, in UTF-8 or UTF-16; None for what no one could read."""
    if len(data) < _MIN_BYTES:
        return None
    try:
        text = data.decode("utf-16-le" if data[1:8:2] == b"\0\0\0\0" else "utf-8")
    except UnicodeDecodeError:
        return None
    if text.isascii():
        if not text.translate(_BREAKS).isprintable():
            return None
        letters = sum(map(text.count, " etaoinshrdlucmfwgpy"))
        plain = letters + sum(map(text.count, "0123456789ETAOINSHRDLU"))
        least = 0.5 if len(text) >= _LONG else 0.6
        return text if (plain if len(text) >= _LONG else letters) >= least * len(text) else None
    good = sum(c.isalnum() or c.isspace() for c in text)
    return text if good >= _MIN_WORDY * len(text) else None


def terminal(text: str) -> Iterator[Found]:
    """Yields the control sequences of terminals, which read as nothing."""
    if "\x1b" in text or "\x9b" in text or "\x9d" in text:
        for match in _TERMINAL.finditer(text):
            yield Found(match.start(), match.end(), "", "ansi")


def entities(text: str) -> Iterator[Found]:
    """Yields the character references of HTML and XML."""
    if "&" in text and ";" in text:
        for match in _ENTITY.finditer(text):
            reading = html.unescape(match[0])
            if reading != match[0]:
                yield Found(match.start(), match.end(), reading, "html")


def percent(text: str) -> Iterator[Found]:
    """Yields runs of percent-encoded bytes."""
    if "%" in text:
        for match in _PERCENT.finditer(text):
            reading = _utf8(bytes.fromhex(match[0].replace("%", "")))
            if reading is not None:
                yield Found(match.start(), match.end(), reading, "url")


def quoted_printable(text: str) -> Iterator[Found]:
    """Yields runs of quoted-printable bytes, and the ends of lines that it breaks, if there are three and more."""
    if text.count("=") < _MIN_QUOTED:
        return
    matches = list(_QUOTED.finditer(text))
    if sum(len(match[0]) for match in matches) < 3 * _MIN_QUOTED:
        return
    for match in matches:
        soft = match[0].endswith("\n")
        reading = "" if soft else _utf8(bytes.fromhex(match[0].replace("=", "")))
        if reading is not None:
            yield Found(match.start(), match.end(), reading, "quoted-printable")


def escapes(text: str) -> Iterator[Found]:
    r"""Yields the escapes of programming languages and of JSON: `\u0041`, `\x41`, `\n`; and `U+0041`."""
    if "\\" not in text and "U+" not in text and "u+" not in text:
        return
    begin = end = -1
    codes: list[str] = []
    for match in _ESCAPE.finditer(text):
        if match.start() != end:
            if codes:
                yield Found(begin, end, _joined(codes), "escape")
            begin, codes = match.start(), []
        codes.append(match[0])
        end = match.end()
        if match[0][1] == "+" and text[end : end + 1] == " ":
            end += 1
    if codes:
        yield Found(begin, end, _joined(codes), "escape")


def binary(text: str) -> Iterator[Found]:
    """Yields characters in groups of 7, 8, 16 or 32 bits, or in one run of bits by eights."""
    if text.count("0") + text.count("1") < 28:
        return
    for match in _BITS.finditer(text):
        groups = re.split(r"[ ,\n]+", match[0])
        if len(groups) == 1:
            bits = groups[0]
            groups = [bits[at : at + 8] for at in range(0, len(bits) - 7, 8)]
        reading = _characters(int(group, 2) for group in groups)
        if reading is not None:
            yield Found(match.start(), match.end(), reading, "binary")


def separated_bytes(text: str) -> Iterator[Found]:
    """Yields bytes one by one, in hex or as decimal numbers."""
    if sum(map(text.count, "0123456789")) < _MIN_DIGITS:
        return
    for match in _HEX_PAIRS.finditer(text):
        data = bytes.fromhex(re.sub(r"0[xX]|[ ,:]", "", match[0]))
        reading = readable(data)
        if reading is not None:
            yield Found(match.start(), match.end(), reading, "hex")
    for match in _DECIMALS.finditer(text):
        reading = _characters(int(number) for number in re.split(r"[ ,]+", match[0]))
        if reading is not None:
            yield Found(match.start(), match.end(), reading, "decimal")


def uuencode(text: str) -> Iterator[Found]:
    """Yields lines of uuencoded data: each piece is its length and its bytes, by threes in four characters."""
    at = 0
    for line in text.split("\n"):
        if len(line) >= 9 and line.isascii() and line == line.upper() and not line.isdigit():
            begin = line.rfind(": ") + 2 if ": " in line else 0
            data = _pieces(line[begin:])
            reading = readable(data) if data else None
            if reading is not None:
                yield Found(at + begin, at + len(line), reading, "uuencode")
        at += len(line) + 1


def tokens(text: str) -> Iterator[Found]:
    """Yields words in base64, base32, base16 and ascii85."""
    for at, end in _code_words(text):
        word = text[at:end]
        if word.isalpha() and (word.islower() or word.istitle()):
            continue
        for match in _TOKEN.finditer(word):
            if len(match[0]) >= _MIN_TOKEN or match[0].endswith("="):
                yield from _decoded(at + match.start(), match[0])
        if len(word) >= _MIN_ASCII85 and sum(map(word.count, _ODD)) * 16 >= len(word):
            yield from _ascii85(at, word)


def _code_words(text: str) -> list[tuple[int, int]]:
    """Returns the first character, and the one behind the last, of the words that may hold a code."""
    native = extension()
    if native is not None:
        return native.code_words(codes_of(text))
    return [match.span() for match in _LONG_WORD.finditer(text)]


def _ascii85(at: int, word: str) -> Iterator[Found]:
    for match in _ASCII85.finditer(word):
        token = match[0]
        if "://" in token or len(token) > _MAX_ASCII85:
            continue
        for decode in (base64.a85decode, base64.b85decode):
            try:
                reading = readable(decode(token.encode()))
            except ValueError:
                continue
            if reading is not None:
                yield Found(at + match.start(), at + match.end(), reading, "ascii85")
                break


def _decoded(start: int, token: str) -> Iterator[Found]:
    end = start + len(token)
    hexadecimal = _HEX.fullmatch(token)
    if hexadecimal:
        reading = readable(bytes.fromhex(hexadecimal[1]))
        if reading is not None:
            yield Found(start, end, reading, "hex")
            return
    if token.islower() or token.isdigit():
        return
    if _BASE32.fullmatch(token):
        bare = token.rstrip("=")
        try:
            reading = readable(base64.b32decode(bare + "=" * (-len(bare) % 8)))
        except binascii.Error:
            reading = None
        if reading is not None:
            yield Found(start, end, reading, "base32")
            return
    bare = token.rstrip("=").replace("-", "+").replace("_", "/")
    for skip in (0, 1):  # a sign in front of the code may belong to the sentence: `-aWdub3Jl`
        if skip and bare[0] not in "+/":
            break
        body = bare[skip:]
        if len(body) % 4 == 1:
            body = body[:-1]
        try:
            reading = readable(binascii.a2b_base64(body + "=" * (-len(body) % 4)))
        except binascii.Error:
            continue
        if reading is not None:
            yield Found(start + skip, end, reading, "base64")
            return


def _utf8(data: bytes) -> str | None:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return None


def _joined(codes: list[str]) -> str:
    """Returns the characters of escapes in a row; `\\x` bytes are UTF-8 where they can be."""
    out: list[str] = []
    raw = bytearray()
    for code in codes:
        if code.startswith("\\x"):
            raw.append(int(code[2:], 16))
            continue
        if raw:
            out.append(_utf8(bytes(raw)) or raw.decode("latin-1"))
            raw.clear()
        if code[1] in "nrt\"'/\\":
            out.append({"n": "\n", "r": "\r", "t": "\t"}.get(code[1], code[1]))
        else:
            number = int(code[2:].strip("{}"), 16)
            out.append(chr(number) if number <= 0x10FFFF else "\ufffd")
    if raw:
        out.append(_utf8(bytes(raw)) or raw.decode("latin-1"))
    text = "".join(out)
    if any("\ud800" <= c <= "\udfff" for c in text):
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def _characters(numbers: Iterator[int]) -> str | None:
    """Returns the text of code points if it is readable."""
    codes = list(numbers)
    if any(not 9 <= code <= 0x10FFFF or 0xD800 <= code <= 0xDFFF for code in codes):
        return None
    if all(code < 256 for code in codes):
        return readable(bytes(codes))
    return readable("".join(map(chr, codes)).encode())


def _pieces(line: str) -> bytes | None:
    out = bytearray()
    at = 0
    while at < len(line):
        count = (ord(line[at]) - 32) & 63
        size = (count + 2) // 3 * 4
        if not count or not 32 < ord(line[at]) <= 96 or at + 1 + size > len(line) + 3:
            return None
        piece = line[at : at + 1 + size]
        try:
            out += binascii.a2b_uu(piece + " " * (1 + size - len(piece)))
        except binascii.Error:
            return None
        at += 1 + size
    return bytes(out)
