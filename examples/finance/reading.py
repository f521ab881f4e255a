"""Reads a contract: sentences, numerals, and the clauses that the patterns know."""

from __future__ import annotations

import re
import tomllib
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any, Final

import re2

__all__ = [
    "RULES", "amount", "cities", "court_of", "guarantee_months", "kinds", "months", "party", "per_cent", "per_cent_a_day",
    "per_cent_a_month", "per_cent_a_year", "sentences", "tidy",
]  # fmt: skip

RULES: Final = Path(__file__).parent / "rules"
"""Folder of the patterns and the rule set."""

_DIGITS: Final = {
    one: number
    for digits in ("零一二三四五六七八九", "零壹贰叁肆伍陆柒捌玖")
    for number, one in enumerate(digits)
} | {"两": 2, "〇": 0}
_UNITS: Final = {"十": 10, "百": 100, "千": 1000, "拾": 10, "佰": 100, "仟": 1000}
_BIG: Final = {"万": 10_000, "亿": 100_000_000}
_HAN: Final = "零一二三四五六七八九十百千万亿壹贰叁肆伍陆柒捌玖拾佰仟两〇"
_DATE: Final = re.compile(r"(\d{4})[年.-](\d{1,2})[月.-](\d{1,2})日?")


@dataclass(frozen=True, slots=True)
class _Pattern:
    any: tuple[Any, ...]
    unless: tuple[Any, ...]


def tidy(text: str) -> str:
    """Returns a text with narrow digits and punctuation, without blanks that text recognition left and without page numbers."""
    lines = list[str]()
    for line in text.splitlines():
        flat = unicodedata.normalize("NFKC", re.sub(r"[ \u3000]{2,}", ",", line.strip()))
        flat = flat.replace(" ", "")
        if flat and not re.fullmatch(r"第\d+页共\d+页", flat):
            lines.append(flat)
    return "\n".join(lines)


def sentences(text: str) -> list[str]:
    """Returns the sentences of a tidy text, without the numbers in front of clauses."""
    found = list[str]()
    for line in text.splitlines():
        for sentence in re.split(r"(?<=。)", line):
            plain = re.sub(
                r"^(第[一二三四五六七八九十]+条|[(]?[一二三四五六七八九十\d]{1,3}[)、]+|\d{1,2}\.(?!\d))",
                "",
                sentence,
            )
            if len(plain) > 2:
                found.append(plain)
    return found


def kinds(sentence: str) -> frozenset[str]:
    """Returns the kinds of clause that the patterns find in a sentence."""
    return frozenset(
        kind
        for kind, pattern in _patterns().items()
        if any(one.search(sentence) for one in pattern.any)
        and not any(one.search(sentence) for one in pattern.unless)
    )


def party(role: str, found: Sequence[str]) -> str | None:
    """Returns the name behind a role such as `lender`, where a sentence introduces it; None: no sentence does."""
    words = _table()["roles"][role]
    pattern = re.compile(rf"{words}[^:,]{{0,12}}:([^,(;:|、。]{{2,30}})")
    for sentence in found:
        if match := pattern.search(sentence):
            return match[2]
    return None


def number(text: str) -> float | None:
    """Returns the number that a text is: 1,200,000 or 120万 or 一百二十万 or 壹佰贰拾万; None: it is none."""
    text = text.replace(",", "")
    if match := re.fullmatch(r"(\d+(?:\.\d+)?)([万亿]?)", text):
        return float(match[1]) * _BIG.get(match[2], 1)
    if not text or any(one not in _HAN for one in text):
        return None
    total = section = digit = 0
    for one in text:
        if one in _DIGITS:
            digit = _DIGITS[one]
        elif one in _UNITS:
            section += (digit or 1) * _UNITS[one]
            digit = 0
        else:
            total = (total + section + digit) * _BIG[one]
            section = digit = 0
    return float(total + section + digit)


def amount(sentence: str) -> float | None:
    """Returns an amount of yuan that a sentence states."""
    for pattern in (
        rf"人民币([{_HAN}]+)[元圆]",
        rf"([{_HAN}]{{2,}})[元圆]",
        r"[¥￥]([\d,]+(?:\.\d+)?万?)",
        r"(?:人民币|RMB)([\d,]+(?:\.\d+)?万?)",
        r"(\d[\d,]*(?:\.\d+)?万?)(?:元|块)",
        rf"([{_HAN}]*[万千百])(?:元|块)",
    ):
        if (match := re.search(pattern, sentence)) and (value := number(match[1])):
            return value
    return None


def per_cent(sentence: str) -> float | None:
    """Returns the share that a sentence states, in per cent: 1.2%, 百分之一点二, 千分之三, 万分之五, 一分二厘."""
    if match := re.search(r"(\d+(?:\.\d+)?)%", sentence):
        return float(match[1])
    if match := re.search(rf"([百千万])分之([{_HAN}]+)(点[{_HAN}]+)?", sentence):
        whole = number(match[2]) or 0.0
        if match[3]:
            whole += float("0." + "".join(str(_DIGITS[one]) for one in match[3][1:]))
        return whole * {"百": 1.0, "千": 0.1, "万": 0.01}[match[1]]
    if match := re.search(r"([一二三四五六七八九两])分(?:([一二三四五六七八九])厘)?", sentence):
        return _DIGITS[match[1]] + (_DIGITS[match[2]] / 10 if match[2] else 0.0)
    if match := re.search(r"([一二三四五六七八九])厘", sentence):
        return _DIGITS[match[1]] / 10
    return None


def per_cent_a_year(sentence: str) -> float | None:
    """Returns the rate of a sentence in per cent a year, by the words for day, month and year in it."""
    share = per_cent(sentence)
    if share is None:
        return None
    before = re.split(
        r"\d+(?:\.\d+)?%|[百千万]分之|[一二三四五六七八九两]分|[一二三四五六七八九]厘", sentence
    )
    near = before[0][-8:] + "|" + before[-1][:3]
    if re.search(r"每?日|天", near):
        return share * 365
    if "月" in near:
        return share * 12
    return share


def per_cent_a_month(sentence: str) -> float | None:
    """Returns the monthly share of a fee in per cent."""
    return per_cent(sentence)


def per_cent_a_day(sentence: str) -> float | None:
    """Returns the daily share of default interest in per cent."""
    return per_cent(sentence)


def months(sentence: str) -> float | None:
    """Returns the months between two dates of a sentence, or the number of months that it states."""
    days = [
        date(int(year), int(month), int(day))
        for year, month, day in _DATE.findall(sentence)
        if 1 <= int(month) <= 12 and 1 <= int(day) <= 31
    ]
    if len(days) >= 2:
        return float(round((days[1] - days[0]).days / 30.44))
    return _stated_months(_DATE.sub("", sentence))


def guarantee_months(sentence: str) -> float | None:
    """Returns the months of a guarantee that a sentence states."""
    return _stated_months(sentence)


def court_of(sentence: str) -> str | None:
    """Returns the court that a sentence names."""
    match = re.search(r"(最高|[\u4e00-\u9fff]{2,3}市[\u4e00-\u9fff]{0,4})人民法院", sentence)
    return match[0] if match else None


def cities(text: str) -> list[str]:
    """Returns the cities that a text names."""
    return re.findall(r"([\u4e00-\u9fff]{2})市", text)


def _stated_months(sentence: str) -> float | None:
    if match := re.search(rf"(\d+|[{_HAN}]+)个月", sentence):
        return number(match[1])
    if match := re.search(rf"(\d+|[{_HAN}]+)年", sentence):
        years = number(match[1])
        return years * 12 if years else None
    return None


@cache
def _table() -> Mapping[str, Any]:
    return tomllib.loads((RULES / "patterns.toml").read_text(encoding="utf-8"))


@cache
def _patterns() -> Mapping[str, _Pattern]:
    return {
        kind: _Pattern(
            tuple(re2.compile(one) for one in table["any"]),
            tuple(re2.compile(one) for one in table.get("unless", ())),
        )
        for kind, table in _table()["clauses"].items()
    }
