"""`usage_page`: rows of usage by the hour as buckets of an hour or a day."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Any, Final

from deepwell.errors import InvalidRequest
from deepwell.server.families.usage.bodies import (
    ImagesResult,
    SpeechesResult,
    TranscriptionsResult,
    UsageBucket,
    UsagePage,
    UsageResult,
)
from deepwell.server.families.usage.schema import UsageQuery
from deepwell.storage.usage import MediaPlace, MediaUsage, Usage, UsagePlace

__all__ = [
    "completions_result",
    "images_result",
    "span_of",
    "speeches_result",
    "transcriptions_result",
    "usage_page",
]

_WIDTHS: Final = {"1h": 3600, "1d": 86_400}
_LIMITS: Final = {"1h": 24, "1d": 7}
_PAGE: Final = re.compile(r"page_([0-9]{1,12})")


def completions_result(used: Usage, **group: Any) -> UsageResult:
    """Returns the tokens of a group."""
    return UsageResult(used.input_tokens, used.output_tokens, used.cached_tokens, used.requests, **group)


def speeches_result(used: MediaUsage, **group: Any) -> SpeechesResult:
    """Returns the characters that were read aloud in a group."""
    return SpeechesResult(used.characters, used.requests, **group)


def transcriptions_result(used: MediaUsage, **group: Any) -> TranscriptionsResult:
    """Returns the sound that was recognised in a group, in whole seconds."""
    return TranscriptionsResult(math.ceil(used.milliseconds / 1000), used.requests, **group)


def images_result(used: MediaUsage, **group: Any) -> ImagesResult:
    """Returns the images that were drawn in a group."""
    return ImagesResult(used.images, used.requests, **group)


def span_of(query: UsageQuery, now: int) -> tuple[int, int, int]:
    """Returns the begin of the page, its end, and the end of all pages, each at the edge of a bucket.

    Raises:
        InvalidRequest: the page is none of this question, or the end lies before the start.
    """
    width = _WIDTHS[query.bucket_width]
    end = now + 1 if query.end_time is None else query.end_time
    if end <= query.start_time:
        raise InvalidRequest("end_time is not after start_time", fix="ask for a later end", param="end_time")
    start, last = query.start_time - query.start_time % width, -(-end // width) * width
    if query.page is not None:
        found = _PAGE.fullmatch(query.page)
        begin = -1 if found is None else int(found[1])
        if not start < begin < last or begin % width:
            raise InvalidRequest(
                "there is no such page",
                fix="send next_page of the page before, and change nothing else",
                param="page",
            )
        start = begin
    limit = query.limit or _LIMITS[query.bucket_width]
    return start, min(start + limit * width, last), last


def usage_page(
    query: UsageQuery,
    span: tuple[int, int, int],
    rows: Sequence[tuple[UsagePlace | MediaPlace, Any]],
    result: Callable[..., Any] = completions_result,
) -> UsagePage:
    """Returns a page of the buckets of `span_of`.

    Args:
        rows: those of its hours.
        result: takes the sum of a group, and its properties by name.
    """
    start, end, last = span
    width = _WIDTHS[query.bucket_width]
    groups = sorted(query.groups)
    found: dict[int, dict[tuple[str, ...], Any]] = {}
    for place, used in rows:
        if not query.wants(place):
            continue
        group = tuple(getattr(place, "key_id" if name == "api_key_id" else name) for name in groups)
        bucket = found.setdefault(place.hour - place.hour % width, {})
        bucket[group] = bucket[group] + used if group in bucket else used
    data = [
        UsageBucket(
            begin,
            begin + width,
            [
                result(used, **dict(zip(groups, group, strict=True)))
                for group, used in found.get(begin, {}).items()
            ],
        )
        for begin in range(start, end, width)
    ]
    return UsagePage(data, end < last, f"page_{end}" if end < last else None)
