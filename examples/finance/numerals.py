"""Chinese numerals of contracts: written here for the generator, read in `reading.py`."""

from __future__ import annotations

from typing import Final

__all__ = ["fullwidth", "large", "plain"]

_PLAIN: Final = ("零一二三四五六七八九", "十百千", "万亿")
_LARGE: Final = ("零壹贰叁肆伍陆柒捌玖", "拾佰仟", "万亿")


def plain(number: int) -> str:
    """Returns a whole number as 一百二十; 10 to 19 without the leading 一."""
    text = _written(number, _PLAIN)
    return text[1:] if text.startswith("一十") else text


def large(number: int) -> str:
    """Returns an amount of yuan in the numerals of cheques, such as 人民币壹佰贰拾万元整."""
    return f"人民币{_written(number, _LARGE)}元整"


def fullwidth(text: str) -> str:
    """Returns a text with digits, commas and full stops as wide as Chinese characters."""
    return text.translate(str.maketrans("0123456789.,%", "０１２３４５６７８９．，％"))


def _written(number: int, names: tuple[str, str, str]) -> str:
    digits, small, big = names
    if number == 0:
        return digits[0]
    groups = list[int]()
    while number:
        number, group = divmod(number, 10_000)
        groups.append(group)
    text, gap = "", False
    for place in reversed(range(len(groups))):
        group = groups[place]
        if not group:
            gap = bool(text)
            continue
        if text and (gap or group < 1000):
            text += digits[0]
        text += _group(group, digits, small) + (big[place - 1] if place else "")
        gap = False
    return text


def _group(group: int, digits: str, small: str) -> str:
    text, gap = "", False
    for place in (3, 2, 1, 0):
        digit = group // 10**place % 10
        if not digit:
            gap = bool(text)
            continue
        text += (digits[0] if gap else "") + digits[digit] + (small[place - 1] if place else "")
        gap = False
    return text
