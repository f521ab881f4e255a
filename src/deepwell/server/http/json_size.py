"""`check_entries`: bounds the messages, items, parts and members of a large body before it is validated.

NOTE: Validation costs microseconds an entry, up to 10, on the event loop, and an error about a long list turns all of it into
Python objects: 230,000 messages in 8 MB held the loop for 0.2 to 2.3 s. Here lists are split without reading their entries, and
only if the body has so many braces that it might exceed a bound. That takes 5 to 10 ms a megabyte.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec
from msgspec import Raw

from deepwell.errors import InvalidRequest
from deepwell.server.http.schema import MAX_ENTRIES

__all__ = ["MAX_MEMBERS", "MAX_PARTS", "check_entries"]

MAX_PARTS = 8192
"""The most parts, and calls of tools, in all messages or items of a request together."""

MAX_MEMBERS = 16_384
"""The most members of a request, and of each object in it, such as `logit_bias`."""

_LISTS = ("messages", "input")  # of a body
_PARTS = ("content", "output", "summary", "tool_calls")  # of a message or an item
_object = msgspec.json.Decoder(dict[str, Raw])
_list = msgspec.json.Decoder(list[Raw])


def check_entries(body: bytes) -> None:
    """Checks how many messages, items, parts and members a JSON body has. What is no such body is left to its validation.

    Raises:
        InvalidRequest: there are more than `MAX_ENTRIES` messages or items, more than `MAX_PARTS` parts, or more than
            `MAX_MEMBERS` members of the body or of an object in it.
    """
    if body.count(b":") > MAX_MEMBERS:
        _check_members(_members(body))
    if body.count(b"{") <= MAX_ENTRIES:
        return
    members = _members(body)
    for name in _LISTS:
        entries = _entries(members.get(name))
        if len(entries) > MAX_ENTRIES:
            raise InvalidRequest(
                f"{name!r}: List should have at most {MAX_ENTRIES} items, not {len(entries)}",
                fix=f"send at most {MAX_ENTRIES}",
                param=name,
            )
        if _exceeds(entries):
            raise InvalidRequest(
                f"{name!r}: the content parts and tool calls of all entries are more than {MAX_PARTS}",
                fix="join texts into fewer parts, or leave older entries out",
                param=name,
            )


def _check_members(body: Mapping[str, Raw]) -> None:
    objects = {name: _members(value) for name, value in body.items() if memoryview(value)[:1] == b"{"}
    for name, members in {"": body, **objects}.items():
        if len(members) > MAX_MEMBERS:
            whose = f"{name!r}" if name else "the request"
            raise InvalidRequest(
                f"{whose} has {len(members)} members", fix=f"send at most {MAX_MEMBERS}", param=name or None
            )


def _exceeds(entries: Iterable[Raw]) -> bool:
    """Returns whether entries have more than `MAX_PARTS` parts, with those of tools' results in their content."""
    count = 0
    for entry in entries:
        members = _members(entry)
        is_nested = b"tool_result" in bytes(entry)
        for name in _PARTS:
            parts = _entries(members.get(name))
            count += len(parts)
            if count <= MAX_PARTS and is_nested:
                count += sum(len(_entries(_members(part).get("content"))) for part in parts)
            if count > MAX_PARTS:
                return True
    return False


def _members(data: bytes | Raw) -> dict[str, Raw]:
    try:
        return _object.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}


def _entries(data: Raw | None) -> list[Raw]:
    try:
        return [] if data is None else _list.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return []
