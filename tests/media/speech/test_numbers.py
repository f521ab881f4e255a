"""Numbers, dates, times, amounts and units are said as people say them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepwell.media.speech import chinese_numbers, english_numbers
from deepwell.media.speech.chinese_numbers import spoken_chinese
from deepwell.media.speech.english_numbers import spoken_english

_HAN = {digit: value for value, digit in enumerate("零一二三四五六七八九")} | {"两": 2}
_UNITS = {"十": 10, "百": 100, "千": 1000}
_WORDS = {word: number for number, word in enumerate(english_numbers._ONES)}  # pyright: ignore[reportPrivateUsage]
_WORDS |= {word: 10 * number for number, word in enumerate(english_numbers._TENS, start=2)}  # pyright: ignore[reportPrivateUsage]
_SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12, "quadrillion": 10**15}


def read_chinese(text: str) -> int:
    """Reads a cardinal back."""
    for name, scale in (("万亿", 10**12), ("亿", 10**8), ("万", 10**4)):
        above, found, below = text.partition(name)
        if found:
            return read_chinese(above) * scale + (read_chinese(below) if below else 0)
    total, digit = 0, 0
    for character in text:
        if character in _UNITS:
            total += (digit or 1) * _UNITS[character]
            digit = 0
        else:
            digit = _HAN[character]
    return total + digit


def read_english(text: str) -> int:
    total = group = 0
    for word in text.replace("-", " ").split():
        if word in _SCALES:
            total += group * _SCALES[word]
            group = 0
        elif word == "hundred":
            group *= 100
        else:
            group += _WORDS[word]
    return total + group


@given(st.integers(0, 10**16 - 1))
def test_a_chinese_cardinal_reads_back(number: int) -> None:
    assert read_chinese(chinese_numbers.cardinal(number)) == number


@given(st.integers(0, 10**18 - 1))
def test_an_english_cardinal_reads_back(number: int) -> None:
    assert read_english(english_numbers.cardinal(number)) == number


@given(st.text(st.sampled_from("0123456789.,-−+:/%$￥¥€£°C℃kmgh×= 年月日个第apm"), max_size=60))
def test_no_digit_stays_whatever_stands_around_it(text: str) -> None:
    for said in (spoken_chinese(text), spoken_english(text)):
        assert not any(character in "0123456789" for character in said)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("2024-05-01下午14:05开会", "二零二四年五月一日下午十四点零五分开会"),
        ("9:00出发", "九点整出发"),
        ("增长5.2%，达到126.06万亿元", "增长百分之五点二，达到一百二十六点零六万亿元"),
        ("气温-3°C到12℃", "气温负三摄氏度到十二摄氏度"),
        ("2个苹果和12本书", "两个苹果和十二本书"),
        ("第2名，2年级，2年后", "第二名，二年级，两年后"),
        ("电话13812345678", "电话幺三八幺二三四五六七八"),
        ("3-5天，占1/3", "三到五天，占三分之一"),
        ("版本3.11.2", "版本三点一一点二"),
        ("120km/h，5kg，1,234,567人", "一百二十公里每小时，五公斤，一百二十三万四千五百六十七人"),
        ("￥200", "两百元"),
        ("1+1=2", "一加一等于二"),
        ("没有数字", "没有数字"),
    ],
)
def test_chinese(text: str, said: str) -> None:
    assert spoken_chinese(text).replace("二百", "两百") == said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("On 2024-05-01 at 3:05 pm.", "On May first, twenty twenty-four at three oh five P M."),
        ("Dr. Smith paid $5.20, or £1.01.", "Doctor Smith paid five dollars and twenty cents, or one pound and one penny."),
        ("In 1999, 2001 and 1800", "In nineteen ninety-nine, two thousand one and eighteen hundred"),
        ("the 1990s", "the nineteen nineties"),
        ("50% of 1,234", "fifty percent of one thousand two hundred thirty-four"),
        ("1/2, 1/3 and 3/4", "one half, one third and three quarters"),
        ("1 km, 20°C, -5 degrees", "one kilometer, twenty degrees Celsius, minus five degrees"),
        ("21st, 2nd, 103rd", "twenty-first, second, one hundred third"),
        ("3-5 days", "three to five days"),
        ("007", "zero zero seven"),
        ("R&D", "R and D"),
        ("e.g. this vs. that", "for example this versus that"),
    ],
)  # fmt: skip
def test_english(text: str, said: str) -> None:
    assert spoken_english(text) == said
