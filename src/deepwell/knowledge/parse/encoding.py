"""Text from bytes whose encoding nobody named: UTF-8, UTF-16, UTF-32, GB18030 for Chinese, Windows-1252 last."""

from __future__ import annotations

import codecs
import re
from typing import Final, NamedTuple

__all__ = ["Decoded", "decode", "looks_binary"]

_MARKS: Final = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_SAMPLE = 1 << 16
_MOST_BROKEN_SHARE = (
    0.01  # of the characters beyond ASCII, for text that was cut or joined within a character
)
_MIN_GB2312_SHARE = 0.8
_MOST_CONTROL_SHARE = 0.02
_CONTROL = re.compile("[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f\ufffe\uffff]")
_HIGH_PAIR = re.compile(rb"[\x81-\xfe][\x40-\x7e\x80-\xfe]")
_GB2312_PAIR = re.compile(rb"[\xa1-\xf7][\xa1-\xfe]")
_BEYOND_ASCII = re.compile(rb"[\xc2-\xf4][\x80-\xbf]+")
_DECLARED: Final = {  # names that web pages and mails use, beside those that Python knows
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "x-gbk": "gb18030",
    "iso-8859-1": "cp1252",
    "latin-1": "cp1252",
    "latin1": "cp1252",
    "us-ascii": "cp1252",
    "ascii": "cp1252",
}


class Decoded(NamedTuple):
    """Text, and the encoding that it was read by. `replaced` counts the characters that were not valid in it."""

    text: str
    encoding: str
    replaced: int = 0

    @property
    def said(self) -> str:
        """The encoding for people, with the number of broken characters if there are any."""
        return f"{self.encoding}, {self.replaced} broken characters" if self.replaced else self.encoding


def decode(data: bytes, declared: str | None = None) -> Decoded:
    """Returns the text of bytes. A byte-order mark decides; then what is declared if it fits; then what fits the bytes.

    GB18030 decodes much that is not Chinese. It is taken if four of five pairs of bytes are in the area of GB2312, which
    accented letters before ASCII letters are not.

    Args:
        declared: name of the encoding that the file itself gives, as `<meta charset>` does.
    """
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return _replacing(data[len(mark) :], encoding)
    strict = _declared(data, declared)
    if strict is not None:
        return strict
    if (wide := _wide(data)) is not None:
        return _replacing(data, wide)
    try:
        return Decoded(data.decode("utf-8"), "utf-8")
    except UnicodeDecodeError:
        pass
    lenient = _replacing(data, "utf-8")
    whole = len(_BEYOND_ASCII.findall(data)) - lenient.replaced
    if whole > 0 and lenient.replaced <= 1 + _MOST_BROKEN_SHARE * whole:
        return lenient
    if _is_chinese(data):
        return Decoded(data.decode("gb18030"), "gb18030")
    try:
        return Decoded(data.decode("cp1252"), "windows-1252")
    except UnicodeDecodeError:
        return Decoded(data.decode("latin-1"), "latin-1")


def looks_binary(text: str) -> bool:
    """Tells whether decoded bytes are no text: two of a hundred characters are control characters."""
    sample = text[:_SAMPLE]
    return len(_CONTROL.findall(sample)) > _MOST_CONTROL_SHARE * len(sample)


def _declared(data: bytes, declared: str | None) -> Decoded | None:
    name = (declared or "").strip().strip("\"'").lower()
    name = _DECLARED.get(name, name)
    if not name or name.startswith("utf-16"):  # a declaration that could be read was not written in UTF-16
        return None
    try:
        info = codecs.lookup(name)
        if not getattr(info, "_is_text_encoding", True) or info.name in ("idna", "punycode"):
            return None
        return Decoded(data.decode(info.name), info.name)
    except (LookupError, ValueError):
        return None


def _replacing(data: bytes, encoding: str) -> Decoded:
    text = data.decode(encoding, "replace")
    held = data.count("\ufffd".encode(encoding))
    return Decoded(text, encoding, max(text.count("\ufffd") - held, 0))


def _wide(data: bytes) -> str | None:
    """Returns UTF-16 or UTF-32 without a mark: text with many ASCII characters has a zero in one place of each unit."""
    sample = data[:4096]
    if len(sample) < 4 or not sample.count(0):
        return None
    quarter, half = len(sample) // 4, len(sample) // 2
    zeros = [sample[i::4].count(0) for i in range(4)]
    if len(data) % 4 == 0 and min(zeros[2], zeros[3]) >= 0.95 * quarter and zeros[0] < 0.1 * quarter:
        return "utf-32-le"
    if len(data) % 4 == 0 and min(zeros[0], zeros[1]) >= 0.95 * quarter and zeros[3] < 0.1 * quarter:
        return "utf-32-be"
    even, odd = zeros[0] + zeros[2], zeros[1] + zeros[3]
    if odd >= 0.3 * half and even < 0.05 * half:
        return "utf-16-le"
    if even >= 0.3 * half and odd < 0.05 * half:
        return "utf-16-be"
    return None


def _is_chinese(data: bytes) -> bool:
    try:
        data.decode("gb18030")
    except UnicodeDecodeError:
        return False
    pairs = _HIGH_PAIR.findall(data[: 4 * _SAMPLE])
    return sum(map(bool, map(_GB2312_PAIR.match, pairs))) >= _MIN_GB2312_SHARE * max(len(pairs), 1)
