"""`usage_page`: rows of usage by the hour as buckets of an hour or a day."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from deepwell.errors import InvalidRequest
from deepwell.server.families.usage.bodies import UsageBucket, UsagePage, UsageResult
from deepwell.server.families.usage.schema import UsageQuery
from deepwell.storage.usage import Usage, UsagePlace

__all__ = ["span_of", "usage_page"]

_WIDTHS: Final = {"1h": 3600, "1d": 86_400}
_LIMITS: Final = {"1h": 24, "1d": 7}
_PAGE: Final = re.compile(r"page_([0-9]{1,12})")


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
    query: UsageQuery, span: tuple[int, int, int], rows: Sequence[tuple[UsagePlace, Usage]]
) -> UsagePage:
    """Returns a page of the buckets of `span_of`. `rows` are those of its hours."""
    start, end, last = span
    width = _WIDTHS[query.bucket_width]
    groups, models, keys = query.groups, query.wanted_models, query.wanted_keys
    found: dict[int, dict[tuple[str | None, str | None], Usage]] = {}
    for place, used in rows:
        if (models and place.model not in models) or (keys and place.key_id not in keys):
            continue
        group = (
            place.model if "model" in groups else None,
            place.key_id if "api_key_id" in groups else None,
        )
        bucket = found.setdefault(place.hour - place.hour % width, {})
        bucket[group] = bucket.get(group, Usage()) + used
    data = [
        UsageBucket(
            begin,
            begin + width,
            [_result(used, model, key_id) for (model, key_id), used in found.get(begin, {}).items()],
        )
        for begin in range(start, end, width)
    ]
    return UsagePage(data, end < last, f"page_{end}" if end < last else None)


def _result(used: Usage, model: str | None, key_id: str | None) -> UsageResult:
    return UsageResult(
        used.input_tokens,
        used.output_tokens,
        used.cached_tokens,
        used.requests,
        model=model,
        api_key_id=key_id,
    )
