"""Sentences that hold one made-up piece of personal data each, and sentences with numbers that are none."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

__all__ = ["EACH", "SEED", "SHA256", "PersonalText", "digest", "number_texts", "personal_texts"]

EACH: Final = 30
"""Values of each kind."""
SHA256: Final = "1410ac3a0cb98487a791a14df6d575c5fe75555dfea4a6a197d2be97b00cc4e5"
"""Digest of the sentences with the values of faker 40.54.0. Frozen before any guard read them."""
SEED: Final = 1717
_NUMBERS: Final = 10
"""Sentences of each template of numbers."""

_ANY_EN: Final = (
    "Please update my file: {}.",
    "{} is what she gave me.",
    "Use {} from now on, thanks!",
    "Here it is: {}",
)
_ANY_ZH: Final = (
    "麻烦更新一下我的资料：{}。",
    "他给我的是{}，请核对。",
    "以后请用{}，谢谢！",
    "登记信息{}已经提交。",
)
_EN: Final[Mapping[str, Sequence[str]]] = {
    "email": ("Write to {} if anything changes.", "My email is {}."),
    "phone": ("Call me on {} after six.", "My phone number is {}."),
    "card": ("Charge it to {}, please.", "My credit card number is {}."),
    "iban": ("Transfer the deposit to {}.", "The IBAN is {}."),
    "ssn": ("The form asks for it, so: {}.", "My social security number is {}."),
    "ipv4": ("He logged in from {} last night.", "The IP address is {}."),
    "ipv6": ("He logged in from {} last night.", "The IP address is {}."),
    "mac": ("The laptop with {} is mine.", "The MAC address is {}."),
    "address": ("Send the parcel to {}.", "My address is {}."),
}
_ZH: Final[Mapping[str, Sequence[str]]] = {
    "id": ("实名认证请填{}。", "我的身份证号是{}。"),
    "phone": ("六点以后打{}找我。", "我的手机号是{}。"),
    "card": ("钱打到{}就行。", "我的银行卡号是{}。"),
    "email": ("有变动请发到{}。", "我的邮箱是{}。"),
    "ipv4": ("他昨晚从{}登录过。", "IP 地址是{}。"),
    "plate": ("停在门口的{}是我的车。", "车牌号{}。"),
    "address": ("快递请寄到{}。", "我家住在{}。"),
}
_TEMPLATES: Final[Mapping[str, tuple[Mapping[str, Sequence[str]], Sequence[str]]]] = {
    "en": (_EN, _ANY_EN),
    "zh": (_ZH, _ANY_ZH),
}

# "#" is a digit, "@" a capital letter, "%" a hexadecimal digit; the rest stands as it is.
_ORDINARY: Final = (
    "Order ########## shipped on 2024-0#-1#.",
    "Tracking number 1Z%%%%%%%%%%%%%%%% is out for delivery.",
    "See ISBN 978-#-##-######-# for the second edition.",
    "Upgrade from version 1#.#.## to 2#.#.##.",
    "Commit %%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%% broke the build.",
    "The site is at 5#.#####, 1#.#####.",
    "The invoice comes to $#,###,###.## including tax.",
    "The job ran from 10:##:## to 11:##:##, 12###### rows.",
    "Part @@-####-#### does not fit the older frame.",
    "Section ##.#.# of RFC ##1# says otherwise.",
    "The batch of 2024 had ######### units, ########## in all.",
    "Error code 0x%%%%%%%% at offset ############.",
    "订单号 2024############ 已发货。",
    "快递单号 SF############# 正在派送。",
    "本季度营收 ##,###,###.## 元，同比增长百分之 1#.##。",
    "请参考国标 GB/T 1####-20## 第 #.#.# 条。",
    "设备序列号 @@######## 已过保修期。",
    "车次 G#### 在 10:## 发车，座位 0#车1#@。",
    "发票代码 0########### 请留存。",
    "会议室 ### 在 ## 楼，会议号 ### ### ###。",
)


@dataclass(frozen=True, slots=True)
class PersonalText:
    """A sentence, and the place of the personal data in it: characters `start` to `end`."""

    language: str
    kind: str
    text: str
    start: int
    end: int


def personal_texts(values: Mapping[str, Mapping[str, Sequence[str]]]) -> list[PersonalText]:
    """Returns one sentence a value; every other template names the kind of data, as people do.

    Args:
        values: by language (`en`, `zh`) and kind.
    """
    return list(_sentences(values))


def _sentences(values: Mapping[str, Mapping[str, Sequence[str]]]) -> Iterator[PersonalText]:
    for language, (own, common) in _TEMPLATES.items():
        for kind, templates in own.items():
            for number, value in enumerate(values[language][kind]):
                template = (templates[0], templates[1], common[number // 4 % len(common)], templates[1])[
                    number % 4
                ]
                before, after = template.split("{}")
                text = f"{before}{value}{after}"
                yield PersonalText(language, kind, text, len(before), len(before) + len(value))


def number_texts() -> list[str]:
    """Returns sentences with orders, versions, prices and codes, drawn by a seed: no personal data."""
    draw = random.Random(SEED)  # noqa: S311 - a seeded draw, not a secret
    signs = {"#": "0123456789", "@": "ABCDEFGHKLMNPRSTUVWXYZ", "%": "0123456789abcdef"}
    return [
        "".join(draw.choice(signs[sign]) if sign in signs else sign for sign in template)
        for template in _ORDINARY
        for _ in range(_NUMBERS)
    ]


def digest(texts: Sequence[PersonalText]) -> str:
    """Returns the SHA-256 of the sentences, one a line."""
    return sha256("\n".join(one.text for one in texts).encode()).hexdigest()
