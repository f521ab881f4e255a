"""Checks of identity numbers, cards, accounts and addresses: checksums, dates, prefixes and lengths."""

from __future__ import annotations

import ipaddress
from datetime import date
from typing import Final

__all__ = [
    "begins_bank_card",
    "begins_iban",
    "is_bank_card",
    "is_cn_credit_code",
    "is_cn_id",
    "is_cn_plate",
    "is_cn_region",
    "is_e164",
    "is_iban",
    "is_ipv4",
    "is_ipv6",
    "is_luhn",
    "is_us_ssn",
]

# GB/T 2260: the first two digits of a region.
_PROVINCES: Final = frozenset(
    "11 12 13 14 15 21 22 23 31 32 33 34 35 36 37 41 42 43 44 45 46 50 51 52 53 54 61 62 63 64 65 71 81 82 83".split()
)
# GB 11643-1999, annex: weights, and the check characters by remainder.
_ID_WEIGHTS: Final = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
_ID_CHECKS: Final = "10x98765432"
# GB 32100-2015: characters by value, and weights (powers of three modulo 31).
_CREDIT_CHARACTERS: Final = "0123456789abcdefghjklmnpqrtuwxy"
_CREDIT_WEIGHTS: Final = tuple(pow(3, power, 31) for power in range(17))
# Registry of ISO 13616: lengths by country.
_IBAN_LENGTHS: Final = {
    country: int(length)
    for country, length in (
        word.split(":")
        for word in (
            "ad:24 ae:23 al:28 at:20 az:28 ba:20 be:16 bg:22 bh:22 br:29 by:28 ch:21 cr:22 cy:28 cz:24 de:22 dk:18 "
            "do:28 ee:20 eg:29 es:24 fi:18 fo:18 fr:27 gb:22 ge:22 gi:23 gl:18 gr:27 gt:28 hr:21 hu:28 ie:22 il:23 "
            "iq:23 is:26 it:27 jo:30 kw:30 kz:20 lb:28 lc:32 li:21 lt:20 lu:20 lv:21 mc:27 md:24 me:22 mk:19 mr:27 "
            "mt:31 mu:30 nl:18 no:15 pk:24 pl:28 ps:29 pt:25 qa:29 ro:24 rs:22 sa:24 sc:31 se:24 si:19 sk:24 sm:27 "
            "st:25 sv:28 tl:23 tn:24 tr:26 ua:29 va:22 vg:24 xk:20"
        ).split()
    )
}
_BANK_LETTERS: Final = 4
"""Most letters with which the number of an account begins behind its check digits: the bank's."""
_FIRST_YEAR: Final = 1850


def is_cn_region(text: str) -> bool:
    """Returns whether a number begins with the code of a Chinese province."""
    return text[:2] in _PROVINCES


def is_cn_id(text: str) -> bool:
    """Returns whether 18 characters are a Chinese identity number: region, date of birth, check character."""
    number = text.replace(" ", "").replace("-", "").lower()
    if len(number) != 18 or not number[:17].isdigit() or not is_cn_region(number):
        return False
    try:
        born = date(int(number[6:10]), int(number[10:12]), int(number[12:14]))
    except ValueError:
        return False
    total = sum(int(digit) * weight for digit, weight in zip(number, _ID_WEIGHTS, strict=False))
    return born.year >= _FIRST_YEAR and _ID_CHECKS[total % 11] == number[17]


def is_cn_credit_code(text: str) -> bool:
    """Returns whether 18 characters are a Chinese unified social credit code."""
    code = text.lower()
    if len(code) != 18 or any(character not in _CREDIT_CHARACTERS for character in code) or code.isalpha():
        return False
    if not is_cn_region(code[2:8]) and code[2:8] != "100000":
        return False
    values = [_CREDIT_CHARACTERS.index(character) for character in code]
    total = sum(value * weight for value, weight in zip(values, _CREDIT_WEIGHTS, strict=False))
    return (31 - total % 31) % 31 == values[17]


def is_cn_plate(text: str) -> bool:
    """Returns whether a number plate has a digit; words of letters alone are none."""
    return any(character.isdigit() for character in text)


def is_luhn(digits: str) -> bool:
    """Returns whether digits end in their check digit by ISO/IEC 7812-1, annex B."""
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit) * (1 + place % 2)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


def is_bank_card(text: str) -> bool:
    """Returns whether digits are a payment card: prefix and length of a known network, check digit, not one digit repeated."""
    digits = "".join(character for character in text if character.isdigit())
    count = len(digits)
    if len(set(digits)) < 2:
        return False
    two, four = int(digits[:2]), int(digits[:4])
    known = (
        (digits[0] == "4" and count in (13, 16, 19))
        or ((51 <= two <= 55 or 2221 <= four <= 2720) and count == 16)
        or (two in (34, 37) and count == 15)
        or (two == 62 and 16 <= count <= 19)
        or (two in (60, 64, 65) and 16 <= count <= 19)
        or (3528 <= four <= 3589 and 16 <= count <= 19)
        or (two in (30, 36, 38, 39) and count in (14, 16))
    )
    return known and is_luhn(digits)


def begins_bank_card(digits: str) -> bool:
    """Returns whether six digits or more can be the first of a payment card that is longer: prefix of a known network."""
    if len(set(digits)) < 2:
        return False
    two, four, count = int(digits[:2]), int(digits[:4]), len(digits)
    return (
        ((digits[0] == "4" or 51 <= two <= 55 or 2221 <= four <= 2720) and count < 16)
        or (two in (34, 37) and count < 15)
        or ((two in (60, 62, 64, 65) or 3528 <= four <= 3589) and count < 19)
        or (two in (30, 36, 38, 39) and count < 16)
    )


def begins_iban(text: str) -> bool:
    """Returns whether characters can be the first of an international bank account number: country, letters of a bank."""
    number = "".join(character for character in text if character.isalnum()).lower()
    letters = len(number[4:]) - len(number[4:].lstrip("abcdefghijklmnopqrstuvwxyz"))
    return len(number) < _IBAN_LENGTHS.get(number[:2], 0) and letters <= _BANK_LETTERS


def is_iban(text: str) -> bool:
    """Returns whether characters are an international bank account number: length of its country, remainder 1 by 97."""
    number = "".join(character for character in text if character.isalnum()).lower()
    if len(number) != _IBAN_LENGTHS.get(number[:2], 0) or not number[2:4].isdigit() or not number.isascii():
        return False
    turned = number[4:] + number[:4]
    return int("".join(str(int(character, 36)) for character in turned)) % 97 == 1


def is_e164(text: str) -> bool:
    """Returns whether a number behind a plus sign has 8 to 15 digits (ITU-T E.164)."""
    return 8 <= sum(character.isdigit() for character in text) <= 15


# Addresses that every network may have, so that they tell nobody from another: RFC 1122, 1918, 6598, 3927, 5771, 1112.
_OF_NOBODY_4: Final = tuple(
    map(
        ipaddress.IPv4Network,
        (
            "0.0.0.0/8",
            "10.0.0.0/8",
            "100.64.0.0/10",
            "127.0.0.0/8",
            "169.254.0.0/16",
            "172.16.0.0/12",
            "192.168.0.0/16",
            "224.0.0.0/3",
        ),
    )
)
# RFC 4291 and 4193: unspecified, loopback, unique local, link local, multicast.
_OF_NOBODY_6: Final = tuple(
    map(ipaddress.IPv6Network, ("::/128", "::1/128", "fc00::/7", "fe80::/10", "ff00::/8"))
)


def is_ipv4(text: str) -> bool:
    """Returns whether four numbers are an address of one machine among all, not a version or a mask."""
    parts = [int(part) for part in text.split(".")]
    if parts[0] < 10 and parts[1] < 10 and parts[2] < 10 and parts[3] < 10:
        return False
    return not any(ipaddress.IPv4Address(bytes(parts)) in network for network in _OF_NOBODY_4)


def is_ipv6(text: str) -> bool:
    """Returns whether groups of hex digits are an address with at least three of them, not a time or a ratio."""
    if len(text) < 6 or sum(bool(group) for group in text.split(":")) < 3:
        return False
    try:
        address = ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return not any(address in network for network in _OF_NOBODY_6)


def is_us_ssn(text: str) -> bool:
    """Returns whether a number may be a United States social security number."""
    area, group, serial = text.split("-")
    return area not in ("000", "666") and group != "00" and serial != "0000"
