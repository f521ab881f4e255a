"""Texts and times that strangers' servers say, checked before anybody shows them."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

from deepwell.errors import DownloadError

__all__ = ["iso_time", "mail_time", "plain_text"]

MAX_CHARS: Final = 200


def plain_text(value: object, what: str) -> str:
    """Returns a short text without control characters.

    Raises:
        DownloadError: it is something else.
    """
    if not isinstance(value, str) or len(value) > MAX_CHARS or not value.isprintable():
        raise DownloadError(f"the answer has no sound {what}")
    return value


def iso_time(value: object) -> str | None:
    """Returns a time that is written as ISO 8601, in UTC to the second; None: it is not a time."""
    if not isinstance(value, str) or len(value) > 40:
        return None
    try:
        return _utc(datetime.fromisoformat(value))
    except (ValueError, OverflowError):
        return None


def mail_time(value: object) -> str | None:
    """Returns a time in the form of HTTP headers (RFC 9110, section 5.6.7) as ISO 8601; None: it is not a time."""
    if not isinstance(value, str) or len(value) > 60:
        return None
    try:
        return _utc(parsedate_to_datetime(value))
    except (ValueError, TypeError, OverflowError):
        return None


def _utc(time: datetime) -> str:
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).astimezone(UTC).isoformat(timespec="seconds")
