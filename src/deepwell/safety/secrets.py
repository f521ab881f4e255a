"""`Secrets`: API keys, tokens, private keys and passwords of well-known forms, with their checksum or by their entropy."""

from __future__ import annotations

import binascii
import json
import math
import re
import zlib
from base64 import urlsafe_b64decode
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import pairwise
from typing import Final

from deepwell.safety.findings import Finding
from deepwell.safety.matching import PatternSet, merged
from deepwell.safety.normalise import Normalised
from deepwell.safety.readings.english import pair_scores

__all__ = ["FORMS", "SecretForm", "Secrets"]

_BASE62: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_EXAMPLES: Final = (
    "example",
    "xxxx",
    "your",
    "placeholder",
    "changeme",
    "redacted",
    "dummy",
    "0000000",
    "1234567890",
    "<",
    "${",
    "{{",
)


def _entropy(text: str) -> float:
    """Returns the bits a character that its letters carry."""
    total = len(text)
    return -sum(count / total * math.log2(count / total) for count in Counter(text).values())


def _is_random(text: str) -> bool:
    value = text.rsplit("-", 1)[-1] if text.count("-") and len(text.rsplit("-", 1)[-1]) >= 16 else text
    return _entropy(value) >= (2.6 if len(value) <= 32 and value.islower() else 3.0) and not _is_example(text)


def _is_example(text: str) -> bool:
    low = text.lower()
    return any(word in low for word in _EXAMPLES)


def _has_crc(text: str) -> bool:
    """Returns whether a token of GitHub's or npm's form ends in its CRC-32 in base 62, six characters."""
    body = text.split("_", 1)[1]
    random, check = body[:-6], body[-6:]
    number = zlib.crc32(random.encode())
    digits = ""
    for _ in range(6):
        number, digit = divmod(number, 62)
        digits = _BASE62[digit] + digits
    return digits == check


def _is_jwt(text: str) -> bool:
    head = text.split(".", 1)[0]
    try:
        header = json.loads(urlsafe_b64decode(head + "=" * (-len(head) % 4)))
    except (ValueError, binascii.Error):
        return False
    return isinstance(header, dict) and "alg" in header


def _is_assigned(text: str) -> bool:
    """Returns whether what stands behind `key = ` or `password: ` looks like a secret and not like a word or a variable."""
    value = text.split("=", 1)[-1] if "=" in text[:60] else text.split(":", 1)[-1]
    value = value.strip().strip("\"'`")
    mixed = any(c.isdigit() for c in value) and any(c.isalpha() for c in value)
    return mixed and len(value) >= 8 and _entropy(value) >= 2.8 and not _is_example(value)


def _is_login(text: str) -> bool:
    password = text.rsplit("@", 1)[0].rsplit(":", 1)[-1]
    return not _is_example(password) and password.lower() not in ("password", "pass", "pwd", "secret")


@dataclass(frozen=True, slots=True)
class SecretForm:
    """One form of a secret.

    Attributes:
        name: the rule is `secrets.` and this name.
        pattern: RE2 expression over the text as it stands.
        lead: expression of what stands before `pattern` and may leave a stream: words that say what follows. A finding
            includes it.
        score: certainty of a match that passes `check`.
        weak_score: certainty of one that does not; 0: it is none.
        told: expression of the least beginning of which nothing may leave where a text ends: what tells the form, and 5
            characters. Empty: all of `pattern` before the first characters of which there are ten or more, and 5.
    """

    name: str
    pattern: str
    score: float = 0.95
    check: Callable[[str], bool] | None = _is_random
    weak_score: float = 0.0
    lead: str = ""
    told: str = ""

    def __post_init__(self) -> None:
        body = _BODY.search(self.pattern)
        if not self.told and body is not None:
            object.__setattr__(self, "told", self.pattern[: body.start()] + _HEAD)

    def is_begun(self, text: str, start: int, end: int) -> bool:
        """Returns whether a text ends in so much of a secret that it must not leave: more than 4 characters of it.

        Args:
            start: first character of what may be a secret.
            end: its end.
        """
        value = text[start:end]
        told = _compiled(self.told).match(text, start, end) if self.told else None
        if told is None or _is_example(value) or _PORT.fullmatch(value):
            return False
        # What stands before a secret may be part of a word, such as `sk-` in the name of a library.
        secret = told.end() - _HEAD_LENGTH
        return secret - start >= _DISTINCT or not _is_word(text[secret:end])


@cache
def _compiled(expression: str) -> re.Pattern[str]:
    return re.compile(expression, re.ASCII)


def _is_word(text: str) -> bool:
    """Returns whether letters look like an English word, by the mean of their pairs' frequencies."""
    if not text.isascii() or not text.isalpha() or not text[1:].islower() or len(text) > _LONGEST_WORD:
        return False
    codes = [ord(letter) - ord("a") for letter in text.lower()]
    scores = pair_scores()
    return sum(float(scores[pair]) for pair in pairwise(codes)) / (len(codes) - 1) >= _MIN_PAIR_SCORE


_HEAD_LENGTH: Final = 5
_HEAD: Final = r"\S{5}"
"""Characters of a secret that may not leave; fewer may."""
_DISTINCT: Final = 5
"""Characters in front of a secret that no word begins with."""
_LONGEST_WORD: Final = 14
_MIN_PAIR_SCORE: Final = -3.3
"""That of 95 % of words, and of 5 % of as many letters drawn by chance."""
_BODY: Final = re.compile(r"\[[^\]]*\]\{[0-9]{2}")
_PORT: Final = re.compile(r"[^:]*:[0-9]{0,5}")
"""A host and its port, which look like the beginning of a user and a password."""

_KEY_HEAD: Final = r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----"
_KEY_END: Final = re.compile(r"-----END [A-Z0-9 ]{1,40}-----")
_KEY_END_BEGUN: Final = re.compile(r"-{1,5}(?:E(?:N(?:D[A-Z0-9 ]{0,40}-{0,5})?)?)?")
_KEY_WORD: Final = re.compile(r"[A-Za-z0-9+/=]+")
_KEY_LINE: Final = 16
"""Characters of the lines of a key, but for its last."""
_LONGEST_KEY: Final = 16_384
_SIGNS: Final = "[A-Za-z0-9_-]"
_KEYWORD: Final = (
    "api[_-]?key|apikey|access[_-]?key|secret[_-]?key|client[_-]?secret|auth[_-]?token|access[_-]?token|bearer|"
    "private[_-]?key|passw(?:or)?d|pwd|secret|token|密码|口令|密钥|令牌"
)
_PART: Final = r"[^\s:@/\"'<>]"

# RE2 repeats at most 1,000 times, and a long count makes its automaton large: long ones are open. A stream holds back 64
# characters: where a form has a head that nothing else has, fewer make it one.
FORMS: Final[tuple[SecretForm, ...]] = (
    SecretForm(
        "private_key",
        _KEY_HEAD,
        1.0,
        None,
    ),
    SecretForm(
        "aws_key", r"\b(?:AKIA|ASIA|ABIA|ACCA)[A-Z2-7]{16}\b", 0.95, lambda text: not text.endswith("EXAMPLE")
    ),
    SecretForm(
        "aws_secret",
        r"[A-Za-z0-9/+]{40}\b",
        0.9,
        lead=r"(?i:aws.{0,20}(?:secret|key).{0,20}[=: \"']{1,4})",
    ),
    SecretForm("github_token", r"\bgh[pousr]_[A-Za-z0-9]{36}\b", 1.0, _has_crc, 0.7),
    SecretForm("github_token", r"\bgithub_pat_[A-Za-z0-9]{22}_[A-Za-z0-9]{20,59}\b", 0.98),
    SecretForm("gitlab_token", rf"\bgl(?:pat|dt|rt|cbt|ptt|ft|soat)-{_SIGNS}{{20,64}}\b"),
    SecretForm("npm_token", r"\bnpm_[A-Za-z0-9]{36}\b", 1.0, _has_crc, 0.7),
    SecretForm("pypi_token", rf"\bpypi-AgE{_SIGNS}{{50}}{_SIGNS}*"),
    SecretForm("slack_token", r"\bxox[abeoprs]-[A-Za-z0-9-]{10}[A-Za-z0-9-]*"),
    SecretForm(
        "slack_webhook",
        r"https://hooks\.slack\.com/(?:services|workflows)/[A-Za-z0-9/_-]{20}[A-Za-z0-9/_-]*",
        0.95,
        None,
    ),
    SecretForm("stripe_key", r"\b[sr]k_(?:live|test)_[A-Za-z0-9]{16}[A-Za-z0-9]*"),
    SecretForm("openai_key", rf"\bsk-(?:proj|svcacct|admin|None)-{_SIGNS}{{20}}{_SIGNS}*"),
    SecretForm("openai_key", r"\bsk-[A-Za-z0-9]{20}T3BlbkFJ[A-Za-z0-9]{20}\b"),
    SecretForm("anthropic_key", rf"\bsk-ant-[a-z0-9]{{3,10}}-{_SIGNS}{{20}}{_SIGNS}*"),
    SecretForm("api_key", r"\bsk-(?:or-v1-|lf-)?[A-Za-z0-9]{32,64}\b", 0.9),
    SecretForm("google_key", rf"\bAIza{_SIGNS}{{35}}", 0.95),
    SecretForm("google_token", rf"\bya29\.{_SIGNS}{{30}}{_SIGNS}*"),
    SecretForm("google_token", rf"\bGOCSPX-{_SIGNS}{{28}}"),
    SecretForm("huggingface_token", r"\b(?:hf|api_org)_[A-Za-z]{34}\b"),
    SecretForm("sendgrid_key", rf"\bSG\.{_SIGNS}{{16,32}}\.{_SIGNS}{{16,64}}"),
    SecretForm("twilio_key", r"\bSK[0-9a-f]{32}\b", 0.85),
    SecretForm("aliyun_key", r"\bLTAI[A-Za-z0-9]{12,24}\b"),
    SecretForm("tencent_key", r"\bAKID[A-Za-z0-9]{32}\b"),
    SecretForm("baidu_key", r"\bbce-v3/ALTAK-[A-Za-z0-9]{20,30}/[0-9a-f]{16,40}\b"),
    SecretForm("telegram_token", rf"\b[0-9]{{8,10}}:AA{_SIGNS}{{33}}\b"),
    SecretForm(
        "discord_token",
        rf"\b[MNO]{_SIGNS}{{23,27}}\.{_SIGNS}{{6}}\.{_SIGNS}{{27,40}}\b",
        0.9,
        # It begins with the digits of a number in base64.
        told=r"\b[MNO][DTjz][AEIMQUYcgk][w-z0-5][MNO]",
    ),
    SecretForm("digitalocean_token", r"\bdo[opr]_v1_[0-9a-f]{40,64}\b"),
    SecretForm("databricks_token", r"\bdapi[0-9a-f]{32}\b", 0.9),
    SecretForm("shopify_token", r"\bshp(?:at|ca|pa|ss)_[0-9a-fA-F]{32}\b"),
    SecretForm("wechat_secret", r"[0-9a-f]{32}\b", 0.85, lead=r"(?i:app_?secret.{0,6}[=: \"']{1,4})"),
    SecretForm("azure_key", r"\bAccountKey=[A-Za-z0-9+/]{40,86}={0,2}"),
    SecretForm(
        "jwt",
        rf"\beyJ{_SIGNS}{{10}}{_SIGNS}*\.(?:eyJ{_SIGNS}{{4}}{_SIGNS}*(?:\.{_SIGNS}{{10}}{_SIGNS}*)?"
        rf"|{_SIGNS}{{4}}{_SIGNS}*\.{_SIGNS}{{10}}{_SIGNS}*)",
        0.9,
        _is_jwt,
    ),
    SecretForm(
        "login_url",
        rf"{_PART}{{1,64}}:{_PART}{{3,64}}@[a-zA-Z0-9.-]+",
        0.85,
        _is_login,
        told=rf"{_PART}{{1,64}}:{_HEAD}",
        lead=r"\b[a-z][a-z0-9+.-]{1,14}://",
    ),
    SecretForm(
        "assignment",
        r"[A-Za-z0-9+/=_.!@#$%^&*~-]{8,200}",
        0.75,
        _is_assigned,
        told=_HEAD,
        lead=rf"(?i:(?:{_KEYWORD})[\"']?[ ]{{0,2}}(?:=>|:=|[:=：]|是|为)[ ]{{0,2}}[\"'`]?)",
    ),
)
"""The forms that are looked for."""


class Secrets:
    """Finds secrets. The rule of a finding is `secrets.` and the form, its category `secret`. Examples of manuals are none."""

    name = "secrets"

    @cached_property
    def _patterns(self) -> PatternSet:
        return PatternSet([form.lead + form.pattern for form in FORMS])

    def scan(self, text: Normalised) -> list[Finding]:
        """Returns the secrets in the text as it stands; case matters, so that folded readings are of no use."""
        found: list[Finding] = []
        for number, start, end in self._patterns.matches(text.text, _counts):
            form = FORMS[number]
            good = form.check is None or form.check(text.text[start:end])
            score = form.score if good else form.weak_score
            if form.pattern == _KEY_HEAD:
                end = _key_end(text.text, end)
            if score:
                found.append(Finding(f"secrets.{form.name}", "secret", start, end, score))
        kept: list[Finding] = []
        taken = bytearray(len(text.text) if found else 0)
        for one in sorted(merged(found), key=lambda f: (-f.score, f.start - f.end)):
            if not any(taken[one.start : one.end]):
                taken[one.start : one.end] = b"\1" * (one.end - one.start)
                kept.append(one)
        return sorted(kept, key=lambda f: (f.start, f.end))


def _counts(number: int, matched: str) -> bool:
    """Returns whether a match is a secret: what is none, such as an example, may hold one."""
    form = FORMS[number]
    return form.check is None or form.weak_score > 0 or form.check(matched)


def _key_end(text: str, head_end: int) -> int:
    """Returns where the private key ends whose first line ends at `head_end`; that end if its last line is not there."""
    found = _KEY_END.search(text, head_end, head_end + _LONGEST_KEY)
    inner = text.find("-----BEGIN", head_end, found.start() if found else head_end)
    if found and inner < 0:
        return found.end()
    return len(text) if _is_unfinished(text, head_end) else head_end


def _is_unfinished(text: str, head_end: int) -> bool:
    """Tells whether all that follows a key's first line may be of the key, as in a stream whose last line is to come."""
    if len(text) - head_end > _LONGEST_KEY or text.find("-----BEGIN", head_end) >= 0:
        return False
    body, hyphen, rest = text[head_end:].partition("-")
    words = body.split()
    if not words or (hyphen and not _KEY_END_BEGUN.fullmatch(hyphen + rest)):
        return False
    # Neither the last line nor one that is not all there is as long as the others.
    long = max(len(words) - 2, min(len(words) - 1, 1))
    return all(len(word) >= _KEY_LINE for word in words[:long]) and all(map(_KEY_WORD.fullmatch, words))
