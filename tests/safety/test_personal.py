"""Personal data: found with its checksum, not without; in disguise; and taken out by kind."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepwell.safety import checksums
from deepwell.safety.normalise import normalised
from deepwell.safety.personal import Personal
from deepwell.safety.redaction import redacted

PERSONAL = Personal()


def kinds(text: str) -> list[str]:
    return [finding.rule for finding in PERSONAL.scan(normalised(text))]


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("11010519491231002X", "cn_id"),
        ("110105 19491231 002x", "cn_id"),
        ("１１０１０５１９４９１２３１００２Ｘ", "cn_id"),
        ("身份证号 110105491231002", "cn_id"),
        ("13800138000", "phone"),
        ("+86 138-0013-8000", "phone"),
        ("1 3 8 0 0 1 3 8 0 0 0", "phone"),
        ("010-62345678", "phone"),
        ("+1 415-555-2671", "phone"),
        ("(415) 555-2671", "phone"),
        ("+44 20 7946 0958", "phone"),
        ("4111 1111 1111 1111", "bank_card"),
        ("378282246310005", "bank_card"),
        ("DE89 3704 0044 0532 0130 00", "iban"),
        ("gb82west12345698765432", "iban"),
        ("a.b+c@mail.example.co.uk", "email"),
        ("git@example.com", "email"),
        ("服务器 121.40.10.254", "ip_address"),
        ("He logged in from 172.33.1.2", "ip_address"),
        ("my version of it: ask 121.40.10.254", "ip_address"),
        ("2001:db8:85a3::8a2e:370:7334", "ip_address"),
        ("00:1A:2B:3C:4D:5E", "mac_address"),
        ("京A·12345", "cn_plate"),
        ("粤BD12345", "cn_plate"),
        ("护照号码：E12345678", "passport"),
        ("passport no. EA1234567", "passport"),
        ("91350100M000100Y43", "cn_credit_code"),
        ("my SSN is 123-45-6789", "us_ssn"),
        ("北京市海淀区中关村大街27号院5号楼301室", "cn_address"),
        ("she lives at 221 Baker Street", "street_address"),
        ("我的微信号：zhangsan_88", "account"),
    ],
)
def test_a_kind_is_found(text: str, kind: str) -> None:
    assert kinds(f"({text})") == [f"personal.{kind}"]


@pytest.mark.parametrize(
    "text",
    [
        "110105194912310021",  # check character
        "990105194912310029",  # region
        "110105194913310028",  # month
        "4111 1111 1111 1112",
        "1111 1111 1111 1117",
        "DE89 3704 0044 0532 0130 01",
        "91350100M000100Y44",
        "version 1.2.3.4 at 12:30:45",
        "version 11.22.33.44",
        "Version: 121.40.10.254",
        "v 11.22.33.44",
        "Chrome/120.0.6099.71 Safari",
        "固件版本 11.22.33.44",
        "pip install package==11.22.33.44",
        "OID 1.3.6.1.4.1.311.21.20",
        "121.40.10.254.7",
        "server 192.168.10.254",
        "服务器 10.20.30.40",
        "host 172.16.31.2",
        "ssh 127.0.0.1",
        "address 169.254.169.254",
        "ip 100.64.12.13",
        "address 224.0.0.251",
        "address fe80::a1:b2:c3d4",
        "address fd12:3456:789a::1",
        "E12345678",
        "订单 20240131123456",
        "price 1,380,013.80",
        "a@b",
        "ratio 16:9:4",
        "000-12-3456",
        "约为1.4142135624，与下文",
        "城市里的路很长",
        "git clone git@github.com:owner/name.git",
        "ssh://git@host.example.com/name",
    ],
)
def test_what_only_looks_like_it_is_not_found(text: str) -> None:
    assert kinds(f"({text})") == []


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("138 1234 5678 4111 1111 1111 1111", ["138 1234 5678", "4111 1111 1111 1111"]),
        ("+86 138 1234 5678 4111 1111 1111 1111", ["+86 138 1234 5678", "4111 1111 1111 1111"]),
        ("4111 1111 1111 1111 123", ["4111 1111 1111 1111"]),
        ("订单 2345 4111-1111-1111-1111", ["4111-1111-1111-1111"]),
        ("GB82 WEST 1234 5698 7654 32 4012", ["GB82 WEST 1234 5698 7654 32"]),
        ("DE89 3704 4012 DE89 3704 0044 0532 0130 00", ["DE89 3704 0044 0532 0130 00"]),
    ],
)
def test_a_wrong_number_hides_no_right_one_that_begins_or_ends_within_it(
    text: str, values: list[str]
) -> None:
    assert [text[one.start : one.end] for one in PERSONAL.scan(normalised(text))] == values


def test_a_word_beside_it_raises_the_score() -> None:
    [bare] = PERSONAL.scan(normalised("0571-87654321"))
    [named] = PERSONAL.scan(normalised("联系电话：0571-87654321"))
    assert named.score > bare.score


def test_it_is_found_inside_of_a_code() -> None:
    import base64

    text = "see " + base64.b64encode(b"my card is 4111 1111 1111 1111").decode()
    [found] = PERSONAL.scan(normalised(text))
    assert (found.rule, found.view, text[found.start : found.end]) == (
        "personal.bank_card",
        "base64",
        text[4:],
    )


def test_redaction_names_the_kind_in_both_languages() -> None:
    text = "张三，11010519491231002X，13800138000。"
    found = PERSONAL.scan(normalised(text))
    assert redacted(text, found, "zh") == "张三，[身份证]，[电话]。"
    assert redacted(text, found) == "张三，[identity card]，[phone]。"
    assert redacted(text, []) == text


@given(st.integers(0, 10**17 - 1))
def test_one_check_character_of_eleven_is_right(number: int) -> None:
    body = f"110105{1950 + number % 50}0214{number % 1000:03d}"
    assert sum(checksums.is_cn_id(body + check) for check in "0123456789x") == 1


@given(st.text("0123456789", min_size=15, max_size=15))
def test_one_check_digit_of_ten_is_right(body: str) -> None:
    assert sum(checksums.is_luhn(body + check) for check in "0123456789") == 1


@given(st.text(max_size=200))
def test_any_text_can_be_scanned(text: str) -> None:
    for finding in PERSONAL.scan(normalised(text)):
        assert 0 <= finding.start < finding.end <= len(text)


@pytest.mark.parametrize("plate", ["京AD12345", "沪A·DF1234", "粤B12345D", "京A12345", "川A·1234学"])
def test_a_number_plate_is_found_to_its_last_character(plate: str) -> None:
    [found] = [
        one for one in Personal().scan(normalised(f"车牌{plate}，谢谢")) if one.rule == "personal.cn_plate"
    ]
    assert (found.start, found.end) == (2, 2 + len(plate))
