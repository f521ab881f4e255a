"""`Personal`: identity numbers, phones, cards, accounts and addresses, checked by their checksums and by words beside them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

from deepwell.safety import checksums
from deepwell.safety.findings import Finding
from deepwell.safety.matching import PatternSet, merged
from deepwell.safety.normalise import Normalised, View
from deepwell.safety.redaction import redacted

__all__ = ["BEHIND", "KINDS", "Kind", "Personal", "is_spaced", "readings", "redacted"]

_BEFORE: Final = 40
BEHIND: Final = 12
"""Characters behind a match in which a word speaks for it."""
_RAISE: Final = 0.3
_LEADS: Final = re.compile(
    "(?:我|他|她|你|您|本人|的|家|收货|寄件|通讯|联系|现|户籍|公司|详细|家庭|居住|办公)*(?:地址|住址|住在|住|位于|寄到|寄往|送到|在|是|为)+"
)
_SERVICE: Final = ("git@", "hg@", "svn@")
"""Accounts of services in addresses of repositories, such as `git@host:owner/name`, which name nobody."""

_VERSION: Final = re.compile(
    r"(?:(?<![a-z])(?:v|ver|versions?|release|build|firmware|python|kernel|chrome|firefox|android|section|clause|chapter|§)"
    r"|版本号?|版|固件|章节|第|条款)[ :=#./@\"'`(vr-]*$"
)
"""Words before four numbers that are a version or a place in a document: `version 1.2.3.4`, `chrome/120.0.6099.71`."""

_JOINED: Final = re.compile(r"(?:[0-9]\.|[=<>~]=|\^)$")
"""Further numbers, or the sign of a requirement, before four numbers: `1.3.6.1.4.1.311`, `package==1.20.3.4`."""

_DECIMAL: Final = re.compile(r"[0-9][.,]$")
"""Text before decimal places, and before digits in groups of three."""

_IN_GROUPS: Final = ("cn_id", "phone", "bank_card", "iban")
"""Numbers in groups, beside which other numbers may stand: a wrong one hides the right one that begins or ends within it."""

_SKIPPED: Final = ("leet", "rot13", "caesar", "atbash", "vigenere", "reversed")


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of personal data.

    Attributes:
        name: the rule is `personal.` and this name.
        pattern: RE2 expression over folded text; its boundaries are ASCII word boundaries.
        lead: expression of what stands before `pattern` and may leave a stream: words that say what follows. A finding
            includes it.
        score: certainty of a match beside which no word speaks for it.
        check: returns whether a match can be one, by checksum, date or length.
        words: words that raise the score where they stand just before or behind it, folded.
        needs_word: whether a match without such a word is none.
        head: most letters and digits of an unfinished value that may leave at the end of a text, where one of the words stands
            before it and where none does; None: any number of them. Of a number so few leave that 1,000 others begin alike.
        may_begin: returns whether an unfinished value can become one. Its second argument tells whether a word is near.
    """

    name: str
    pattern: str
    score: float
    check: Callable[[str], bool] | None = None
    words: tuple[str, ...] = field(default=())
    needs_word: bool = False
    lead: str = ""
    head: tuple[int | None, int | None] = (6, 6)
    may_begin: Callable[[str, bool], bool] | None = None

    def is_begun(self, text: str, start: int, end: int) -> bool:
        """Returns whether so much of a value stands between two places of a folded text that it must not leave.

        Behind `end` there are quotation marks and brackets at most. What they close is whole, unless words tell what it is.
        """
        value = text[start:end]
        near = bool(self.words) and _spoken_of(text, start, end, self.words)
        most = self.head[0 if near else 1]
        if most is None or (not near and end < len(text)) or sum(map(str.isalnum, value)) <= most:
            return False
        before = text[max(0, start - 2) : start]
        if _DECIMAL.search(before) or (value.startswith("+") and before[-1:].isalnum()):
            return False
        return self.may_begin is None or self.may_begin(value, near)


_HAN: Final = r"\p{Han}"
_STREET: Final = r"(?:路|街|大道|道|巷|弄|里|胡同|村|小区|花园|公寓|大厦|苑|庄|屯|组)"
_UNIT: Final = r"(?:号|弄|栋|幢|座|单元|室|楼|层|户|房)"
_PLATE: Final = "京津沪渝冀豫云辽黑湘皖鲁新苏浙赣鄂桂甘晋蒙陕吉闽贵粤青藏川宁琼"
_MARK: Final = "[a-hj-np-z0-9]"
_NEW_ENERGY: Final = "[a-hjk]"
"""Letters of new-energy vehicles, whose plates have one character more than others (GA 36-2018)."""
_CREDIT: Final = "[0-9a-hj-npqrtuwxy]"

_IPV6_BEGUN: Final = re.compile(r"[23][0-9a-f]{3}(?::[0-9a-f]{1,4}){3,6}:?")
"""More than the network of a provider: four groups of an address that the whole internet knows."""
_YEAR: Final = re.compile(r"(?:19|20)[0-9]{2}")
_STREET_NAMED: Final = re.compile(r"[0-9]{1,5}(?: [a-z]+\.?){1,4} ?")
_STREET_BEGUN: Final = re.compile(
    r"[0-9]{1,5}(?: [a-z]+\.?){1,3} (?:str(?:ee?)?|ave(?:nu?)?|roa|boul(?:e(?:v(?:ar?)?)?)?|lan|driv?|cour?|plac?)"
)
_PACKAGE: Final = re.compile(r"@(?:v?[0-9][0-9.]*|latest|next|beta|main|master)$")
"""Text behind the name of a package: `react@latest`, `python@3.11`."""


def _digits(text: str) -> str:
    return "".join(character for character in text if character.isdigit())


def _begins_email(text: str) -> bool:
    return "@" in text and not text.startswith(_SERVICE) and _PACKAGE.search(text) is None


def _begins_ipv4(text: str, near: bool) -> bool:
    """Returns whether three of an address's four numbers are there, and are no version and no date."""
    parts = text.rstrip(".").split(".")
    if len(parts) != 3 or not checksums.is_ipv4(f"{text.rstrip('.')}.1"):
        return False
    numbers = [int(part) for part in parts]
    as_written = all(part == str(number) for part, number in zip(parts, numbers, strict=True))
    return as_written and (near or max(numbers) >= 100 or min(numbers) > 12)


KINDS: Final[tuple[Kind, ...]] = (
    Kind(
        "cn_id",
        r"\b[1-8][0-9]{5}[ -]?(?:18|19|20)[0-9]{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12][0-9]|3[01])[ -]?[0-9]{3}[0-9x]\b",
        0.95,
        checksums.is_cn_id,
        ("身份证", "身份号", "证件", "id card", "identity", "id no", "id number"),
        head=(6, 7),
        may_begin=lambda text, _: checksums.is_cn_region(text) and len(_digits(text)) < 18,
    ),
    Kind(
        "cn_id",
        r"\b[1-8][0-9]{5}[0-9]{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12][0-9]|3[01])[0-9]{3}\b",
        0.4,
        checksums.is_cn_region,
        ("身份证", "身份号", "证件", "id card", "identity"),
        needs_word=True,
        head=(6, None),
        may_begin=lambda text, _: checksums.is_cn_region(text),
    ),
    Kind(
        "phone",
        r"(?:\+?\b0{0,2}86[ -]?)?\b1[3-9][0-9][ -]?[0-9]{4}[ -]?[0-9]{4}\b",
        0.8,
        None,
        ("手机", "电话", "联系", "致电", "微信", "phone", "mobile", "call", "tel", "whatsapp", "sms"),
        head=(6, 7),
    ),
    Kind(
        "phone",
        r"\b0(?:10|2[0-9]|[3-9][0-9]{2})[ -]?[2-8][0-9]{6,7}(?:[ -]?(?:转|ext\.?) ?[0-9]{1,6})?\b",
        0.55,
        None,
        ("电话", "座机", "联系", "传真", "phone", "tel", "fax"),
    ),
    Kind(
        "phone",
        r"\+[1-9][0-9]{0,3}[ .-]?(?:\([0-9]{1,4}\)[ .-]?)?[0-9]{1,4}(?:[ .-]?[0-9]{2,4}){1,4}\b",
        0.8,
        checksums.is_e164,
        ("phone", "mobile", "call", "tel", "whatsapp", "电话", "手机"),
    ),
    Kind(
        "phone",
        r"(?:\b|\()[2-9][0-9]{2}\)?[ .-][2-9][0-9]{2}[ .-][0-9]{4}\b",
        0.55,
        None,
        ("phone", "mobile", "call", "tel", "cell", "fax", "contact", "reach", "text me"),
    ),
    Kind(
        "bank_card",
        r"\b[2-6][0-9]{3}(?:[ -]?[0-9]{4}){2}[ -]?[0-9]{1,4}(?:[ -]?[0-9]{1,3})?\b",
        0.85,
        checksums.is_bank_card,
        ("卡号", "银行卡", "信用卡", "储蓄卡", "账号", "开户", "card", "visa", "mastercard", "account", "credit", "debit"),
        head=(6, 10),
        may_begin=lambda text, _: checksums.begins_bank_card(_digits(text)),
    ),
    Kind(
        "bank_card",
        r"\b3[0-9]{3}[ -]?[0-9]{6}[ -]?[0-9]{4,5}\b",
        0.8,
        checksums.is_bank_card,
        ("card", "amex", "american express", "diners", "卡号", "信用卡"),
        head=(6, 9),
        may_begin=lambda text, _: checksums.begins_bank_card(_digits(text)),
    ),
    Kind(
        "iban",
        r"\b[a-z]{2}[0-9]{2}(?:[ -]?[a-z0-9]{4}){2,7}(?:[ -]?[a-z0-9]{1,3})?\b",
        0.95,
        checksums.is_iban,
        ("iban", "account", "bank", "账号", "账户"),
        head=(8, 8),
        may_begin=lambda text, _: checksums.begins_iban(text),
    ),
    Kind(
        "email",
        r"\b[a-z0-9][a-z0-9._%+'-]{0,63}@(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.){1,6}[a-z]{2,24}\b",
        0.95,
        head=(0, 0),
        may_begin=lambda text, _: _begins_email(text),
    ),
    Kind(
        "ip_address",
        r"\b(?:(?:25[0-5]|2[0-4][0-9]|1?[0-9]?[0-9])\.){3}(?:25[0-5]|2[0-4][0-9]|1?[0-9]?[0-9])\b",
        0.6,
        checksums.is_ipv4,
        ("ip", "host", "server", "address", "地址", "服务器", "登录", "login", "ssh"),
        head=(2, 2),
        may_begin=_begins_ipv4,
    ),
    Kind(
        "ip_address",
        r"(?:\b[0-9a-f]{1,4}|:)(?::[0-9a-f]{0,4}){2,7}",
        0.8,
        checksums.is_ipv6,
        ("ip", "address", "地址"),
        may_begin=lambda text, _: _IPV6_BEGUN.fullmatch(text) is not None,
    ),
    Kind("mac_address", r"\b[0-9a-f]{2}(?:[:-][0-9a-f]{2}){5}\b", 0.85, None, ("mac", "地址"), head=(8, 8)),
    Kind(
        "cn_plate",
        rf"[{_PLATE}][a-hj-np-z][·. -]?"
        rf"(?:{_NEW_ENERGY}{_MARK}[0-9]{{4}}|[0-9]{{5}}{_NEW_ENERGY}|{_MARK}{{4}}(?:{_MARK}|[学警港澳挂试超]))",
        0.8,
        checksums.is_cn_plate,
        ("车牌", "车辆", "牌照", "号牌", "plate"),
        head=(4, 5),
        may_begin=lambda text, _: checksums.is_cn_plate(text),
    ),
    Kind(
        "passport",
        r"\b(?:e[a-hj-np-z][0-9]{7}|[egdsphmkl][0-9]{8}|[a-z]{1,2}[0-9]{7}|[0-9]{9})\b",
        0.5,
        None,
        ("护照", "通行证", "passport"),
        needs_word=True,
        head=(5, None),
    ),
    Kind(
        "cn_permit",
        r"\b[hmc][0-9]{8,10}\b",
        0.5,
        None,
        ("通行证", "港澳", "回乡证", "台胞证", "permit"),
        needs_word=True,
        head=(5, None),
    ),
    Kind(
        "cn_credit_code",
        rf"\b{_CREDIT}{{2}}[0-9]{{6}}{_CREDIT}{{10}}\b",
        0.9,
        checksums.is_cn_credit_code,
        ("信用代码", "统一社会", "税号", "纳税人"),
        head=(8, 10),
        may_begin=lambda text, _: len(text) < 18 and checksums.is_cn_region(text[2:]),
    ),
    Kind(
        "us_ssn",
        r"\b[0-8][0-9]{2}-[0-9]{2}-[0-9]{4}\b",
        0.7,
        checksums.is_us_ssn,
        ("ssn", "social security"),
    ),
    Kind(
        "cn_address",
        rf"[0-9]{{1,5}}{_UNIT}(?:{_HAN}{{0,8}}[0-9a-z-]{{1,6}}{_UNIT}){{0,4}}",
        0.75,
        None,
        ("地址", "住址", "住在", "寄到", "收货", "家住", "快递", "户籍"),
        head=(0, 0),
        may_begin=lambda text, near: near or _YEAR.fullmatch(text) is None,
        lead=rf"{_HAN}{{2,9}}(?:省|市|自治区|自治州|区|县|旗|镇|乡|街道)[{_HAN}0-9a-z]{{0,16}}?{_STREET}{_HAN}{{0,4}}",
    ),
    Kind(
        "street_address",
        r"\b[0-9]{1,5} (?:[a-z]+\.? ){1,3}(?:street|avenue|road|boulevard|lane|drive|court|place|st|ave|rd|blvd|ln|dr)\b",
        0.45,
        None,
        ("address", "live at", "lives at", "home", "mail", "ship"),
        head=(0, 0),
        may_begin=lambda text, near: (_STREET_NAMED if near else _STREET_BEGUN).fullmatch(text) is not None,
    ),
    Kind(
        "account",
        r"(?:[a-z][a-z0-9_-]{5,19}|[1-9][0-9]{4,10})\b",
        0.6,
        None,
        ("加", "联系", "我的", "add", "my"),
        # What is longer is a whole one.
        head=(None, None),
        lead=r"(?:\bqq|微信|\bwe(?:chat|ixin))(?:号码?|账号| id| no\.?| number)?[ :]{1,3}",
    ),
)  # fmt: skip
"""The kinds that are looked for."""


class Personal:
    """Finds personal data. The rule of a finding is `personal.` and the kind, its category `personal`."""

    name = "personal"

    @cached_property
    def _patterns(self) -> PatternSet:
        return PatternSet([kind.lead + kind.pattern for kind in KINDS])

    def scan(self, text: Normalised) -> list[Finding]:
        """Returns the personal data in the text as it stands, in spaced writing and in what was unwrapped."""
        found: list[Finding] = []
        for view in readings(text):
            reading = view.text
            for number, start, end in self._patterns.matches(reading, _may_be):
                kind = KINDS[number]
                matched = reading[start:end]
                if kind.check is not None and not kind.check(matched):
                    continue
                if (
                    kind.name == "email"
                    and matched.startswith(_SERVICE)
                    and reading[end : end + 1] in (":", "/")
                ):
                    continue
                if kind.name == "ip_address" and _is_version(reading, start, end):
                    continue
                near = bool(kind.words) and _spoken_of(reading, start, end, kind.words)
                if kind.needs_word and not near:
                    continue
                if kind.name == "cn_address":
                    start += _lead(matched)
                first, last = view.span(start, end)
                if view.name.endswith("joined") and not is_spaced(text.text[first:last]):
                    continue
                score = min(1.0, kind.score + _RAISE * near)
                found.append(
                    Finding(f"personal.{kind.name}", "personal", first, last, round(score, 2), view.name)
                )
        return _without_parts(merged(found))


def readings(text: Normalised) -> Iterator[View]:
    """Yields the readings in which personal data is looked for: digits have no meaning in the others."""
    return (view for view in text.views if not view.name.endswith(_SKIPPED))


def _may_be(number: int, matched: str) -> bool:
    """Returns whether a match is one, or must not give way to a part of itself, as an address of a machine."""
    kind = KINDS[number]
    return kind.name not in _IN_GROUPS or kind.check is None or kind.check(matched)


def is_spaced(written: str) -> bool:
    """Returns whether signs stand between most characters, so that `1.4142135624` is no telephone number."""
    return 2 * sum(not character.isalnum() for character in written) >= sum(map(str.isalnum, written)) - 2


def _is_version(text: str, start: int, end: int) -> bool:
    """Returns whether numbers with dots stand behind a word for versions, or are part of more of them."""
    if text[end : end + 1] == "." and text[end + 1 : end + 2].isdigit():
        return True
    before = text[max(0, start - _BEFORE) : start]
    return _JOINED.search(before) is not None or _VERSION.search(before) is not None


def _lead(address: str) -> int:
    """Returns the length of the words that say that an address follows."""
    found = _LEADS.match(address)
    return found.end() if found else 0


def _spoken_of(text: str, start: int, end: int, words: tuple[str, ...]) -> bool:
    before, behind = text[max(0, start - _BEFORE) : start], text[end : end + BEHIND]
    return any(_holds(before, word) or _holds(behind, word) for word in words)


def _holds(text: str, word: str) -> bool:
    if not word.isascii():
        return word in text
    return word in text and re.search(rf"(?<![a-z]){re.escape(word)}", text) is not None


def _without_parts(findings: list[Finding]) -> list[Finding]:
    """Returns findings without those inside a longer one, such as the phone number in a card's."""
    kept: list[Finding] = []
    reach = 0
    for one in sorted(findings, key=lambda f: (f.start, -f.end, -f.score)):
        if one.end > reach:
            kept.append(one)
            reach = one.end
    return kept
