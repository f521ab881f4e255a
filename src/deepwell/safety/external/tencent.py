"""Tencent Cloud's TMS: `TextModeration` of 2020-12-29, signed with TC3-HMAC-SHA256."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, Literal

from deepwell.safety.external.shape import BadAnswer, Credentials, Refused, Sent, Verdict, bounded

__all__ = ["TencentShape", "tc3_authorization"]

_CATEGORIES: Final = {
    "porn": "sexual",
    "sexy": "sexual",
    "abuse": "harassment",
    "ad": "advertisement",
    "illegal": "illicit",
    "polity": "politics",
    "terror": "violence",
    "spam": "advertisement",
    "moan": "sexual",
}
_OTHERWISE: Final = "harmful"
_AGAIN: Final = ("InternalError", "RequestLimitExceeded", "LimitExceeded", "ResourceUnavailable")
_REGION: Final = "ap-guangzhou"


class TencentShape:
    """Asks `TextModeration`."""

    most_characters = 10_000

    def __init__(self, credentials: Credentials, *, now: Callable[[], float] = time.time) -> None:
        self._credentials = credentials
        self._now = now

    def request(self, text: str, layer: Literal["input", "context", "output"], host: str) -> Sent:
        """Returns the request."""
        content = base64.b64encode(text.encode("utf-8", "replace")).decode()
        body = json.dumps({"Content": content}).encode()
        timestamp = int(self._now())
        signed = {
            "content-type": "application/json; charset=utf-8",
            "host": host,
            "x-tc-action": "textmoderation",
        }
        headers = {
            "content-type": signed["content-type"],
            "x-tc-action": "TextModeration",
            "x-tc-version": "2020-12-29",
            "x-tc-region": _REGION,
            "x-tc-timestamp": str(timestamp),
            "authorization": tc3_authorization(self._credentials, "tms", signed, body, timestamp),
        }
        return Sent("/", headers, body)

    def verdicts(self, answer: Any) -> Sequence[Verdict]:
        """Returns the labels of an answer that are to be blocked or reviewed."""
        try:
            inner = answer["Response"]
            if (error := inner.get("Error")) is not None:
                code = str(error["Code"])
                raise Refused(code, again=code.startswith(_AGAIN))
            if inner["Suggestion"] == "Pass":
                return []
            details = [one for one in inner.get("DetailResults") or () if one["Suggestion"] != "Pass"]
            return [_verdict(one) for one in details or [inner]]
        except (KeyError, TypeError, ValueError, AttributeError):
            raise BadAnswer("it has no Response with a Suggestion") from None


def tc3_authorization(
    credentials: Credentials, service: str, signed: Mapping[str, str], body: bytes, timestamp: int
) -> str:
    """Returns the header `Authorization` of a POST request to `/`.

    Args:
        signed: the headers that the signature covers, names and values in lower case.
        timestamp: seconds since 1970.
    """
    date = datetime.fromtimestamp(timestamp, UTC).strftime("%Y-%m-%d")
    names = ";".join(sorted(signed))
    lines = "".join(f"{name}:{signed[name]}\n" for name in sorted(signed))
    request = f"POST\n/\n\n{lines}\n{names}\n{hashlib.sha256(body).hexdigest()}"
    scope = f"{date}/{service}/tc3_request"
    digest = hashlib.sha256(request.encode()).hexdigest()
    text = f"TC3-HMAC-SHA256\n{timestamp}\n{scope}\n{digest}"
    key = f"TC3{credentials.secret}".encode()
    for part in (date, service, "tc3_request"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    signature = hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
    return (
        f"TC3-HMAC-SHA256 Credential={credentials.key}/{scope}, SignedHeaders={names}, Signature={signature}"
    )


def _verdict(one: Mapping[str, Any]) -> Verdict:
    label = str(one["Label"])
    score = float(one.get("Score", 100)) / 100
    return Verdict(label.lower(), _CATEGORIES.get(label.lower(), _OTHERWISE), bounded(score))
