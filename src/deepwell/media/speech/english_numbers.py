"""Numbers, dates, times, amounts, units and abbreviations of an English text, as they are said."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

__all__ = ["cardinal", "ordinal", "spoken_english", "year"]

_ONES: Final = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen"
    " eighteen nineteen"
).split()
_TENS: Final = "twenty thirty forty fifty sixty seventy eighty ninety".split()
_SCALES: Final = ("", " thousand", " million", " billion", " trillion", " quadrillion")
_MOST_DIGITS: Final = 18
_ORDINALS: Final = {
    "one": "first",
    "two": "second",
    "three": "third",
    "five": "fifth",
    "eight": "eighth",
    "nine": "ninth",
    "twelve": "twelfth",
}
_MONTHS: Final = (
    "January February March April May June July August September October November December".split()
)
_MONEY: Final = {"$": ("dollar", "cent"), "€": ("euro", "cent"), "£": ("pound", "penny"), "¥": ("yen", "sen")}
_UNITS: Final = {
    "km/h": "kilometers per hour",
    "mph": "miles per hour",
    "m/s": "meters per second",
    "km": "kilometers",
    "cm": "centimeters",
    "mm": "millimeters",
    "kg": "kilograms",
    "mg": "milligrams",
    "lb": "pounds",
    "lbs": "pounds",
    "oz": "ounces",
    "ft": "feet",
    "ml": "milliliters",
    "mL": "milliliters",
    "°C": "degrees Celsius",
    "℃": "degrees Celsius",
    "°F": "degrees Fahrenheit",
    "°": "degrees",
    "ms": "milliseconds",
    "min": "minutes",
    "Hz": "hertz",
    "kHz": "kilohertz",
    "MHz": "megahertz",
    "GHz": "gigahertz",
    "kB": "kilobytes",
    "KB": "kilobytes",
    "MB": "megabytes",
    "GB": "gigabytes",
    "TB": "terabytes",
    "kW": "kilowatts",
    "m": "meters",
    "g": "grams",
    "s": "seconds",
    "h": "hours",
}
_WORDS: Final = {
    "Mr.": "Mister",
    "Mrs.": "Missus",
    "Ms.": "Miz",
    "Dr.": "Doctor",
    "Prof.": "Professor",
    "St.": "Saint",
    "vs.": "versus",
    "etc.": "et cetera",
    "e.g.": "for example",
    "i.e.": "that is",
    "approx.": "approximately",
    "No.": "number",
    "Inc.": "Incorporated",
    "Ltd.": "Limited",
    "Jr.": "Junior",
    "Sr.": "Senior",
}
_SYMBOLS: Final = {
    "&": " and ",
    "@": " at ",
    "+": " plus ",
    "=": " equals ",
    "×": " times ",
    "÷": " divided by ",
}
_N: Final = r"\d[\d,]*(?:\.\d+)?"
_BEFORE: Final = r"(?<![\d.A-Za-z])"


def cardinal(number: int) -> str:
    """Returns a number below 10**18 in words."""
    if number < 20:
        return _ONES[number]
    if number < 100:
        tens, rest = divmod(number, 10)
        return _TENS[tens - 2] + (f"-{_ONES[rest]}" if rest else "")
    if number < 1000:
        hundreds, rest = divmod(number, 100)
        return f"{_ONES[hundreds]} hundred" + (f" {cardinal(rest)}" if rest else "")
    groups: list[str] = []
    for scale in _SCALES:
        number, rest = divmod(number, 1000)
        if rest:
            groups.append(cardinal(rest) + scale)
        if not number:
            break
    return " ".join(reversed(groups))


def ordinal(number: int) -> str:
    """Returns an ordinal in words."""
    head, dash, last = re.fullmatch(r"(.*?)([ -]?)(\w+)", cardinal(number)).groups()  # type: ignore[union-attr]
    if last in _ORDINALS:
        last = _ORDINALS[last]
    elif last.endswith("y"):
        last = f"{last[:-1]}ieth"
    else:
        last += "th"
    return head + dash + last


def year(number: int) -> str:
    """Returns a year as it is said: in two pairs of digits, but for the first years of a millennium."""
    high, low = divmod(number, 100)
    if 2000 <= number < 2010 or number < 1000 or number >= 10_000:
        return cardinal(number)
    if low == 0:
        return f"{cardinal(high)} hundred" if high % 10 else cardinal(number)
    return f"{cardinal(high)} {'oh ' + _ONES[low] if low < 10 else cardinal(low)}"


def _digits(text: str) -> str:
    return " ".join(_ONES[int(one)] for one in text if one.isdecimal())


def _number(text: str) -> str:
    text = text.replace(",", "")
    sign = "minus " if text[0] in "-−" else ""
    whole, point, decimals = text.lstrip("-−+").partition(".")
    if len(whole) > _MOST_DIGITS or (len(whole) > 1 and whole[0] == "0"):
        said = _digits(whole)
    else:
        said = cardinal(int(whole or "0"))
    return sign + said + (f" point {_digits(decimals)}" if point else "")


def _date(found: re.Match[str]) -> str:
    years, month, day = map(int, found.groups())
    if not (1 <= month <= 12 and 1 <= day <= 31):
        return found[0]
    return f"{_MONTHS[month - 1]} {ordinal(day)}, {year(years)}"


def _time(found: re.Match[str]) -> str:
    hour, minute = int(found[1]), int(found[2])
    if hour > 24 or minute > 59:
        return found[0]
    half = " ".join(found[3].replace(".", "").upper()) if found[3] else ""
    if minute == 0:
        said = cardinal(hour) + ("" if half else " o'clock")
    else:
        said = f"{cardinal(hour)} {'oh ' + _ONES[minute] if minute < 10 else cardinal(minute)}"
    return f"{said} {half}".strip()


def _money(found: re.Match[str]) -> str:
    coin, piece = _MONEY[found[1]]
    whole, _, rest = found[2].replace(",", "").partition(".")
    if found[3]:
        return f"{_number(found[2])} {found[3]} {coin}s"
    many = coin if int(whole) == 1 or coin == "yen" else f"{coin}s"
    said = f"{_number(whole)} {many}"
    if len(rest) == 2 and int(rest):
        pieces = int(rest)
        plural = "pence" if piece == "penny" else f"{piece}s"
        said += f" and {cardinal(pieces)} {piece if pieces == 1 else plural}"
    elif rest and len(rest) != 2:
        said = f"{_number(found[2])} {coin}s"
    return said


def _with_unit(found: re.Match[str]) -> str:
    unit = _UNITS[found[2]]
    if found[1] == "1":
        unit = {"feet": "foot", "hertz": "hertz"}.get(unit, re.sub(r"s\b", "", unit, count=1))
    return f"{_number(found[1])} {unit}"


def _fraction(found: re.Match[str]) -> str:
    above, below = int(found[1]), int(found[2])
    if (above, below) == (1, 2):
        return "one half"
    part = "quarter" if below == 4 else "half" if below == 2 else ordinal(below)
    plural = "halves" if part == "half" else f"{part}s"
    return f"{cardinal(above)} {part if above == 1 else plural}"


_ANY_UNIT: Final = "|".join(map(re.escape, sorted(_UNITS, key=len, reverse=True)))
_STEPS: Final[tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], str]], ...]] = (
    (re.compile(rf"{_BEFORE}(\d{{4}})[-/.](\d{{1,2}})[-/.](\d{{1,2}})(?![\d.])"), _date),
    (
        re.compile(rf"{_BEFORE}(\d{{1,2}}):(\d{{2}})(?::\d{{2}})?\s?([AaPp]\.[Mm]\.|[AaPp][Mm]\b)?(?!\d)"),
        _time,
    ),
    (re.compile(rf"([$€£¥])\s*({_N})(?:\s?(thousand|million|billion|trillion))?"), _money),
    (re.compile(rf"([-−]?{_N})\s*%"), lambda found: f"{_number(found[1])} percent"),
    (
        re.compile(r"(?<![\d.])(\d+(?:\.\d+){2,})(?!\d)"),
        lambda f: " point ".join(map(_digits, f[1].split("."))),
    ),
    (
        re.compile(r"(?<![\d.,])(\d{3}-\d{3,4}-\d{4})(?!\d)"),
        lambda f: ", ".join(map(_digits, f[1].split("-"))),
    ),
    (re.compile(rf"{_BEFORE}(\d{{1,15}})(st|nd|rd|th)\b"), lambda found: ordinal(int(found[1]))),
    (re.compile(rf"{_BEFORE}(\d{{2,4}})s\b"), lambda found: _decade(found[1])),
    (re.compile(rf"{_BEFORE}({_N})\s*[-–~]\s*(?={_N}(?![\d-]))"), lambda found: f"{found[1]} to "),
    (re.compile(rf"{_BEFORE}(\d{{1,2}})/([1-9]\d?)(?![\d/])"), _fraction),
    (re.compile(rf"{_BEFORE}([-−]?{_N})\s*({_ANY_UNIT})(?![A-Za-z0-9])"), _with_unit),
    (re.compile(r"(?<![\d.,$])(1[1-9]\d\d|20\d\d)(?!\d|,\d|\.\d)"), lambda found: year(int(found[1]))),
    (re.compile(rf"(?<![\w.])[-−]({_N})"), lambda found: "minus " + _number(found[1])),
    (re.compile(_N), lambda found: _number(found[0])),
)


def _decade(text: str) -> str:
    said = year(int(text)) if len(text) == 4 else cardinal(int(text))
    return f"{said[:-1]}ies" if said.endswith("y") else f"{said}s"


def spoken_english(text: str) -> str:
    """Returns an English text with its numbers, abbreviations and signs in words."""
    for short, long in _WORDS.items():
        if short in text:
            text = re.sub(rf"(?<!\w){re.escape(short)}", long, text)
    if re.search(r"\d", text):
        for pattern, said in _STEPS:
            text = pattern.sub(lambda found, said=said: f" {said(found)} ", text)
        text = re.sub(r" +(?=[,.;:!?]|$)", "", re.sub(r" {2,}", " ", text)).strip()
    for symbol, said in _SYMBOLS.items():
        text = text.replace(symbol, said)
    return text
