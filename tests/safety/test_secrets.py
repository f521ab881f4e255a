"""Secrets: found by their form and checksum; words, variables and the examples of manuals are not."""

from __future__ import annotations

import base64
import json
import random
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepwell.safety.normalise import normalised
from deepwell.safety.redaction import redacted
from deepwell.safety.secrets import Secrets

SECRETS = Secrets()
BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def made(count: int, characters: str = BASE62, seed: int = 7) -> str:
    return "".join(random.Random(seed).choices(characters, k=count))


def with_crc(prefix: str) -> str:
    body = made(30)
    number, check = zlib.crc32(body.encode()), ""
    for _ in range(6):
        number, digit = divmod(number, 62)
        check = BASE62[digit] + check
    return prefix + body + check


def jwt() -> str:
    head = base64.urlsafe_b64encode(json.dumps({"alg": "HS256", "typ": "JWT"}).encode()).decode().rstrip("=")
    return f"{head}.{made(40)}.{made(43)}"


FORMS = {
    "github_token": with_crc("ghp_"),
    "npm_token": with_crc("npm_"),
    "aws_key": "AKIA" + made(16, "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"),
    "gitlab_token": "glpat-" + made(20),
    "slack_token": "xoxb-" + made(12, "0123456789") + "-" + made(24),
    "stripe_key": "sk_live_" + made(24),
    "openai_key": "sk-proj-" + made(48),
    "anthropic_key": "sk-ant-api03-" + made(80),
    "api_key": "sk-" + made(32, "0123456789abcdef"),
    "google_key": "AIza" + made(35),
    "huggingface_token": "hf_" + made(34, BASE62[10:]),
    "aliyun_key": "LTAI" + made(20),
    "tencent_key": "AKID" + made(32),
    "telegram_token": "123456789:AA" + made(33),
    "jwt": jwt(),
    "login_url": "postgres://admin:S3cr3tPw9@db.internal:5432/x",
    "private_key": "-----BEGIN RSA PRIVATE KEY-----\n" + made(64) + "\n-----END RSA PRIVATE KEY-----",
    "assignment": "password = 'Tr0ub4dor&3x'",
}


@pytest.mark.parametrize("name", FORMS)
def test_a_form_is_found(name: str) -> None:
    [found] = SECRETS.scan(normalised(f"请看 {FORMS[name]} 就是"))
    assert found.rule == f"secrets.{name}"
    assert found.score >= 0.75
    assert redacted(f"请看 {FORMS[name]} 就是", [found]).startswith("请看 [secret]")


def test_a_wrong_checksum_lowers_the_score() -> None:
    [right] = SECRETS.scan(normalised(with_crc("ghp_")))
    [wrong] = SECRETS.scan(
        normalised(with_crc("ghp_")[:-1] + "_"[:0] + ("0" if with_crc("ghp_")[-1] != "0" else "1"))
    )
    assert wrong.score < right.score == 1.0


@pytest.mark.parametrize(
    "text",
    [
        "password: required",
        "token = get_token()",
        "api_key=YOUR_API_KEY_HERE_123",
        "secret: ${SECRET_VALUE_1}",
        "sk-learn-contrib is a package",
        "the skeleton key_live_ of xoxb",
        "AKIAIOSFODNN7EXAMPLE",
        "sk-xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
        "http://user:password@host.example",
        "密码是什么？",
        "task-force-2024-meeting-notes-for-the-whole-team",
    ],
)
def test_what_is_no_secret_is_not_found(text: str) -> None:
    assert SECRETS.scan(normalised(text)) == []


@given(st.text(max_size=200))
def test_any_text_can_be_scanned(text: str) -> None:
    for finding in SECRETS.scan(normalised(text)):
        assert 0 <= finding.start < finding.end <= len(text)
