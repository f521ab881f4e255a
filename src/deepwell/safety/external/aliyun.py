"""Aliyun's Green: `TextModerationPlus` of 2022-03-02, signed as its RPC interface asks (HMAC-SHA1, signature version 1.0)."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, Literal
from urllib.parse import quote, urlencode

from deepwell.safety.external.shape import BadAnswer, Credentials, Refused, Sent, Verdict, bounded

__all__ = ["AliyunShape", "rpc_signature"]

_SERVICES: Final = {
    "input": "llm_query_moderation",
    "context": "llm_query_moderation",
    "output": "llm_response_moderation",
}
_CATEGORIES: Final = {
    "pornographic": "sexual",
    "sexual": "sexual",
    "political": "politics",
    "violent": "violence",
    "contraband": "illicit",
    "inappropriate": "harassment",
    "religion": "hate",
    "pt": "advertisement",
    "ad": "advertisement",
    "cyberbullying": "harassment",
    "negative": "self-harm",
}
"""Category by the beginning of a label, such as `political_content` and `violent_extremist`."""

_AGAIN: Final = frozenset({408, 429, 500, 502, 503, 504, 581, 588})
_OTHERWISE: Final = "harmful"


class AliyunShape:
    """Asks `TextModerationPlus`. A query and an answer of a model have services of their own."""

    most_characters = 2_000

    def __init__(
        self,
        credentials: Credentials,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        nonce: Callable[[], str] = lambda: uuid.uuid4().hex,
    ) -> None:
        self._credentials = credentials
        self._now = now
        self._nonce = nonce

    def request(self, text: str, layer: Literal["input", "context", "output"], host: str) -> Sent:
        """Returns the request: all parameters are in its body, so that no log of URLs shows them."""
        parameters = {
            "Action": "TextModerationPlus",
            "Version": "2022-03-02",
            "Format": "JSON",
            "AccessKeyId": self._credentials.key,
            "SignatureMethod": "HMAC-SHA1",
            "SignatureVersion": "1.0",
            "SignatureNonce": self._nonce(),
            "Timestamp": self._now().strftime("%Y-%m-%dT%H:%M:%SZ"),
            "Service": _SERVICES[layer],
            "ServiceParameters": json.dumps(
                {"content": text.encode("utf-8", "replace").decode()}, ensure_ascii=False
            ),
        }
        parameters["Signature"] = rpc_signature("POST", parameters, self._credentials.secret)
        headers = {"content-type": "application/x-www-form-urlencoded"}
        return Sent("/", headers, urlencode(parameters).encode())

    def verdicts(self, answer: Any) -> Sequence[Verdict]:
        """Returns the labels of an answer; `nonLabel` is none."""
        try:
            code = answer["Code"]
            if code != 200:
                raise Refused(str(code), again=code in _AGAIN or str(code).startswith("Throttling"))
            found: list[Verdict] = []
            for one in answer["Data"]["Result"]:
                label = str(one["Label"])
                if label != "nonLabel":
                    score = float(one.get("Confidence", 100.0)) / 100
                    found.append(Verdict(label.lower(), _category(label), bounded(score)))
            return found
        except (KeyError, TypeError, ValueError, AttributeError):
            raise BadAnswer("it has no Code, or no Data.Result with labels") from None


def rpc_signature(method: str, parameters: Mapping[str, str], secret: str) -> str:
    """Returns the signature of a request's parameters, in base64."""
    query = "&".join(f"{_encoded(name)}={_encoded(parameters[name])}" for name in sorted(parameters))
    signed = f"{method}&{_encoded('/')}&{_encoded(query)}"
    digest = hmac.new(f"{secret}&".encode(), signed.encode(), hashlib.sha1).digest()
    return base64.b64encode(digest).decode()


def _encoded(text: str) -> str:
    return quote(text, safe="~")


def _category(label: str) -> str:
    return _CATEGORIES.get(label.lower().partition("_")[0], _OTHERWISE)
