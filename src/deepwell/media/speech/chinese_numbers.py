"""Numbers, dates, times, amounts and units of a Chinese text, as they are said."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

__all__ = ["cardinal", "digits", "spoken_chinese"]

_DIGITS: Final = "零一二三四五六七八九"
_MOST_DIGITS: Final = 16
_MEASURES: Final = "[个只台条位天次种本张家名件层倍岁秒米块周杯瓶辆座间套份项封句人点]|小时|分钟|公里|千米|字节|年(?!级|[0-9])"
_UNITS: Final = {
    "km/h": "公里每小时",
    "m/s": "米每秒",
    "km": "公里",
    "cm": "厘米",
    "mm": "毫米",
    "m": "米",
    "kg": "公斤",
    "mg": "毫克",
    "g": "克",
    "ml": "毫升",
    "mL": "毫升",
    "L": "升",
    "°C": "摄氏度",
    "℃": "摄氏度",
    "°F": "华氏度",
    "°": "度",
    "ms": "毫秒",
    "s": "秒",
    "min": "分钟",
    "h": "小时",
    "Hz": "赫兹",
    "kHz": "千赫",
    "MHz": "兆赫",
    "GHz": "吉赫",
    "kW": "千瓦",
    "W": "瓦",
    "V": "伏",
    "m²": "平方米",
    "㎡": "平方米",
    "km²": "平方公里",
}
_MONEY: Final = {"￥": "元", "¥": "元", "$": "美元", "€": "欧元", "£": "英镑"}
_N: Final = r"\d[\d,]*(?:\.\d+)?"
_BEFORE: Final = r"(?<![\d.A-Za-z])"


def digits(text: str, *, phone: bool = False) -> str:
    """Returns digits said one by one; in numbers of telephones a one is 幺."""
    said = "".join(_DIGITS[int(one)] for one in text if one.isdecimal())
    return said.replace("一", "幺") if phone else said


def cardinal(number: int) -> str:
    """Returns a number below 10**16 as it is said."""
    if number == 0:
        return "零"
    groups: list[int] = []
    while number:
        number, rest = divmod(number, 10_000)
        groups.append(rest)
    said = ""
    for place in range(len(groups) - 1, -1, -1):
        group = groups[place]
        if group == 0:
            continue
        if said and (group < 1000 or groups[place + 1] == 0):
            said += "零"
        said += _below_ten_thousand(group, first=not said) + ("", "万", "亿", "万亿")[place]
    return re.sub(r"^二(?=[千万亿])|(?<=零)二(?=千)", "两", said)


def _below_ten_thousand(number: int, *, first: bool) -> str:
    said, gap = "", False
    for unit, name in ((1000, "千"), (100, "百"), (10, "十"), (1, "")):
        digit, number = divmod(number, unit)
        if digit == 0:
            gap = gap or bool(said)
            continue
        if gap:
            said, gap = said + "零", False
        ten_alone = first and not said and unit == 10 and digit == 1
        said += name if ten_alone else _DIGITS[digit] + name
    return said


def _number(text: str) -> str:
    """Returns a number as written, which may have commas, a sign and decimals."""
    text = text.replace(",", "")
    sign = "负" if text[0] in "-−" else ""
    whole, point, decimals = text.lstrip("-−+").partition(".")
    if len(whole) > _MOST_DIGITS or (len(whole) > 1 and whole[0] == "0"):
        said = digits(whole)
    else:
        said = cardinal(int(whole or "0"))
    return sign + said + (f"点{digits(decimals)}" if point else "")


def _date(found: re.Match[str]) -> str:
    year, month, day = found.groups()
    if not (1 <= int(month) <= 12 and 1 <= int(day) <= 31):
        return found[0]
    return f"{digits(year)}年{cardinal(int(month))}月{cardinal(int(day))}日"


def _time(found: re.Match[str]) -> str:
    hour, minute, second = found.groups()
    if int(hour) > 24 or int(minute) > 59:
        return found[0]
    hours = "两" if int(hour) == 2 else cardinal(int(hour))
    said = f"{hours}点"
    if int(minute) or second:
        said += ("零" if int(minute) < 10 else "") + f"{cardinal(int(minute))}分"
    else:
        said += "整"
    return said + (f"{cardinal(int(second))}秒" if second else "")


def _measured(found: re.Match[str]) -> str:
    return f"两{found[1]}"


def _with_unit(found: re.Match[str]) -> str:
    return _number(found[1]) + _UNITS[found[2]]


_ANY_UNIT: Final = "|".join(map(re.escape, sorted(_UNITS, key=len, reverse=True)))
_STEPS: Final[tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], str]], ...]] = (
    (re.compile(rf"{_BEFORE}(\d{{4}})[-/.](\d{{1,2}})[-/.](\d{{1,2}})(?![\d.])"), _date),
    (re.compile(r"(?<!\d)(\d{4})(?=年(?!级))"), lambda found: digits(found[1])),
    (re.compile(rf"{_BEFORE}(\d{{1,2}})[:：](\d{{2}})(?:[:：](\d{{2}}))?(?!\d)"), _time),
    (
        re.compile(r"(?<![\d.,])(?:\+?86[- ]?)?(1[3-9]\d{9}|0\d{2,3}-\d{7,8})(?!\d)"),
        lambda f: digits(f[1], phone=True),
    ),
    (re.compile(r"(?<![\d.])(\d+(?:\.\d+){2,})(?!\d)"), lambda f: "点".join(map(digits, f[1].split(".")))),
    (
        re.compile(rf"{_BEFORE}({_N})([%％]?)\s*[-~–—～至]\s*(?={_N}[%％]?(?![\d-]))"),
        lambda f: f"{f[1]}{f[2]}到",
    ),
    (re.compile(rf"([-−]?{_N})\s*[%％]"), lambda found: f"百分之{_number(found[1])}"),
    (re.compile(rf"([-−]?{_N})\s*‰"), lambda found: f"千分之{_number(found[1])}"),
    (re.compile(rf"([￥¥$€£])\s*({_N})(万|亿)?"), lambda f: _number(f[2]) + (f[3] or "") + _MONEY[f[1]]),
    (
        re.compile(rf"{_BEFORE}(\d{{1,3}})/([1-9]\d{{0,2}})(?![\d/])"),
        lambda f: f"{_number(f[2])}分之{_number(f[1])}",
    ),
    (re.compile(rf"{_BEFORE}([-−]?{_N})\s*({_ANY_UNIT})(?![A-Za-z0-9])"), _with_unit),
    (re.compile(rf"(?<![\d.,第])2\s*({_MEASURES})"), _measured),
    (re.compile(r"(?<=[\d\s])×\s*(?=\d)"), lambda _: "乘"),
    (re.compile(r"(?<=\d)\s*\+\s*(?=\d)"), lambda _: "加"),
    (re.compile(r"(?<=\d)\s*=\s*(?=\d)"), lambda _: "等于"),
    (re.compile(rf"(?<![\w.])[-−]({_N})"), lambda found: "负" + _number(found[1])),
    (re.compile(_N), lambda found: _number(found[0])),
)


def spoken_chinese(text: str) -> str:
    """Returns a Chinese text with its numbers in words. Text without digits stays as it is."""
    if not re.search(r"\d", text):
        return text
    for pattern, said in _STEPS:
        text = pattern.sub(said, text)
    return text
