"""Feedback as data: from the database to votes and back, and lines of files for both."""

from __future__ import annotations

import json
import re
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, Literal, cast

from deepwell.messages import Note
from deepwell.storage.database import Database, Tenant
from deepwell.storage.feedback import FeedbackStore, Rating, StoredFeedback, voter_of
from deepwell.tuning.align.votes import Vote
from deepwell.tuning.data.records import BadRecord, content_text, read_entries
from deepwell.tuning.data.shapes import ShapeError, decode_object, decoded, parse, parse_messages

__all__ = [
    "FIELDS",
    "collect_votes",
    "collect_votes_of",
    "label_line",
    "line_of",
    "preference_line",
    "read_feedback",
    "vote_of",
]

_LIMITS: Final = {
    "target_id": 128,
    "reason": 8192,
    "correction": 32_768,
    "model": 256,
    "safety_identifier": 8192,
}
FIELDS: Final = (*_LIMITS, "rating", "messages", "consent", "created_at", "voter")
"""Fields of a line of feedback. All but the rating may be left out; there is a conversation or the id of an answer."""

_MAX_MESSAGES_BYTES: Final = 256 << 10  # as the API has it
_MAX_TIME: Final = 1 << 40
_VOTER: Final = re.compile("[0-9a-f]{64}|fb_[0-9a-f]{32}")  # the second: of ratings before there were voters


def vote_of(given: StoredFeedback) -> Vote:
    """Returns a rating as a vote. One without a conversation that training can read has an empty prompt and an empty answer."""
    turns = _turns(given.messages)
    answer = turns.pop() if turns and turns[-1].get("role") == "assistant" else None
    return Vote(
        prompt=() if answer is None else tuple(turns),
        answer="" if answer is None else content_text(answer),
        desirable=given.rating == "up",
        user=given.voter,
        correction=given.correction,
        source=given.id,
    )


def _turns(messages: str | None) -> list[dict[str, Any]]:
    """Returns a conversation; an empty one where it is no chat. Clients send what they like, and templates fail on it."""
    if messages is None:
        return []
    try:
        return list(parse_messages(decode_object(f'{{"messages":{messages}}}'.encode()), "messages"))
    except ShapeError:
        return []


async def collect_votes(
    database: Database, tenant: Tenant, *, since: int = 0, verified: bool | None = None
) -> list[Vote]:
    """Returns the votes that may be used to improve models, in the order of their arrival.

    Args:
        since: time in seconds; votes of before are left out.
        verified: True takes votes alone whose conversation is that of a kept answer, which no client can forge; None: all.
    """
    found = [
        one
        async for one in FeedbackStore(database).walk(tenant, consent=True)
        if one.created_at >= since and verified in (None, one.verified)
    ]
    found.sort(key=lambda one: one.created_at)
    return [vote_of(one) for one in found]


async def collect_votes_of(database: Database, tenants: Sequence[Tenant]) -> list[Vote]:
    """Returns the votes of several tenants that may be used to improve models, tenant by tenant.

    A user belongs to a tenant: one who has the same name in another tenant is somebody else, and replaces no vote here.
    """
    return [
        replace(vote, user=f"{tenant}/{vote.user}")
        for tenant in dict.fromkeys(tenants)
        for vote in await collect_votes(database, tenant)
    ]


def line_of(given: StoredFeedback) -> dict[str, Any]:
    """Returns the object that stands for a rating in a file, which `read_feedback` reads.

    The hash of the voter is part of it, so that votes of different keys stay those of different users.
    """
    line: dict[str, Any] = {
        name: getattr(given, name) for name in ("target_id", "rating", "consent", "created_at", "voter")
    }
    line |= {
        name: value
        for name in ("reason", "correction", "model")
        if (value := getattr(given, name)) is not None
    }
    if given.end_user is not None:
        line["safety_identifier"] = given.end_user
    if given.messages is not None:
        line["messages"] = json.loads(given.messages)
    return line


def label_line(vote: Vote) -> dict[str, Any]:
    """Returns the object that stands for a vote in a file of labelled answers, which KTO trains on."""
    return {"messages": [*vote.prompt, _answer(vote.answer)], "label": vote.desirable}


def preference_line(vote: Vote) -> dict[str, Any] | None:
    """Returns OpenAI's preference object for a corrected answer, which DPO trains on; None: it has no other correction."""
    if vote.correction is None or vote.correction.strip() in ("", vote.answer.strip()):
        return None
    return {
        "input": {"messages": list(vote.prompt)},
        "preferred_output": [_answer(vote.correction)],
        "non_preferred_output": [_answer(vote.answer)],
    }


def read_feedback(paths: Sequence[Path]) -> Iterator[StoredFeedback | BadRecord]:
    """Yields the ratings of files in their order, each once, and what is wrong with those that cannot be read.

    A line without `target_id` gets one from its conversation, so that a file may be imported twice. `label`, a boolean, may
    stand for `rating`.

    Raises:
        OSError: a file cannot be opened or read.
    """
    now = int(time.time())
    for path in paths:
        source = str(path)
        for line, raw in read_entries(path):
            try:
                if isinstance(raw, Note):
                    raise ShapeError("", raw)
                yield _parsed(raw, now)
            except ShapeError as error:
                yield BadRecord(line, error.field, error.note, source)


def _parsed(raw: bytes, now: int) -> StoredFeedback:
    value = decoded(raw)
    if not isinstance(value, dict):
        raise ShapeError("", _type("an object", "对象", value))
    fields = cast("dict[str, Any]", value)
    for name in fields:
        if name not in FIELDS and name != "label":
            raise ShapeError(name[:80], Note("feedback_field", {"known": ", ".join(FIELDS)}))
    texts = {name: _text(fields, name, limit) for name, limit in _LIMITS.items()}
    messages = _conversation(raw, fields)
    target = texts["target_id"]
    if target is None:
        if messages is None:
            raise ShapeError("target_id", Note("data_missing"))
        target = f"import-{sha256(messages.encode()).hexdigest()[:40]}"
    return StoredFeedback(
        id=f"fb_{uuid.uuid4().hex}",
        target_id=target,
        rating=_rating(fields),
        created_at=_number(fields, now),
        reason=texts["reason"],
        model=texts["model"],
        messages=messages,
        end_user=texts["safety_identifier"],
        correction=texts["correction"],
        consent=_boolean(fields, "consent") or False,
        voter=_voter(fields) or voter_of(texts["safety_identifier"]),
        source="import",
    )


def _conversation(raw: bytes, fields: Mapping[str, Any]) -> str | None:
    if fields.get("messages") is None:
        return None
    messages = parse(raw, "chat").messages
    if messages[-1]["role"] != "assistant":
        last = f"messages[{len(messages) - 1}].role"
        raise ShapeError(last, Note("data_role", {"found": messages[-1]["role"], "known": "assistant"}))
    text = json.dumps(messages, ensure_ascii=False)
    if len(text.encode()) > _MAX_MESSAGES_BYTES:
        raise ShapeError("messages", Note("feedback_long", {"limit": _MAX_MESSAGES_BYTES}))
    return text


def _rating(fields: Mapping[str, Any]) -> Rating:
    rating: Any = fields.get("rating")
    if rating is None:
        label = _boolean(fields, "label")
        rating = None if label is None else "up" if label else "down"
    if rating not in ("up", "down"):
        shown = "null" if rating is None else repr(rating)[:40]
        raise ShapeError("rating", Note("data_role", {"found": shown, "known": "up, down"}))
    return cast("Literal['up', 'down']", rating)


def _text(fields: Mapping[str, Any], name: str, limit: int) -> str | None:
    value = fields.get(name)
    if value is None:
        return None
    if not isinstance(value, str):
        raise ShapeError(name, _type("a string", "字符串", value))
    if len(value) > limit or "\0" in value or (name == "target_id" and not _is_name(value)):
        raise ShapeError(name, Note("feedback_text", {"limit": limit}))
    return value or None


def _voter(fields: Mapping[str, Any]) -> str | None:
    value = _text(fields, "voter", 64)
    if value is not None and not _VOTER.fullmatch(value):
        raise ShapeError("voter", _type("64 hexadecimal digits", "64 位十六进制数字", value))
    return value


def _is_name(value: str) -> bool:
    return value.isprintable() and " " not in value


def _boolean(fields: Mapping[str, Any], name: str) -> bool | None:
    value = fields.get(name)
    if value is not None and not isinstance(value, bool):
        raise ShapeError(name, _type("a boolean", "布尔值", value))
    return value


def _number(fields: Mapping[str, Any], default: int) -> int:
    value = fields.get("created_at")
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < _MAX_TIME:
        raise ShapeError("created_at", _type("seconds since 1970", "1970 年以来的秒数", value))
    return value


def _type(expected: str, expected_zh: str, value: Any) -> Note:
    found = {"dict": "object", "str": "string", "bool": "boolean", "int": "number", "float": "number"}
    name = type(value).__name__
    values = {"expected": expected, "expected_zh": expected_zh, "found": found.get(name, name)}
    return Note("data_type", values)


def _answer(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}
