"""The order of a conversation's turns: who speaks when, which calls are answered, and what a model can learn from it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from deepwell.tuning.data.quality import Finding
from deepwell.tuning.data.records import Record, content_text

__all__ = ["TURN_FINDINGS", "turn_findings"]

TURN_FINDINGS = ("role_order", "empty_turn", "no_answer")
"""Names of the findings: an order that no chat has, a turn without text, and nothing that a model could learn to say."""


def turn_findings(record: Record) -> Iterator[Finding]:
    """Yields what is wrong with the turns of a conversation, at most one finding of each name. Plain texts have no turns."""
    if record.format == "text":
        if not record.text.strip():
            yield Finding("empty_turn", "text")
        return
    messages = record.messages
    if wrong := next(_disorder(messages), None):
        yield Finding("role_order", wrong)
    for number, message in enumerate(messages):
        calls = message.get("tool_calls") or message.get("function_call") or message.get("refusal")
        if not content_text(message).strip() and not calls and message["role"] not in ("tool", "function"):
            yield Finding("empty_turn", f"messages[{number}] {message['role']}")
            break
    answers = [one for one in messages if one["role"] == "assistant" and one.get("weight", 1) != 0]
    if not answers:
        yield Finding("no_answer", "")


def _disorder(messages: tuple[dict[str, Any], ...]) -> Iterator[str]:
    """Yields the places at which a message may not stand."""
    before = ""
    open_calls: set[str] = set()
    for number, message in enumerate(messages):
        role = message["role"]
        place = f"messages[{number}] {before or '^'} → {role}"
        if role in ("system", "developer"):
            if number and before not in ("system", "developer"):
                yield place
        elif role == "user":
            if before == "user":
                yield place
            if open_calls:
                yield f"messages[{number}] {role}: tool_calls"
        elif role == "assistant":
            if before not in ("user", "tool", "function"):
                yield place
            if open_calls:
                yield f"messages[{number}] {role}: tool_calls"
            open_calls = {str(one.get("id", "")) for one in message.get("tool_calls") or ()}
        else:
            if before not in ("assistant", "tool", "function"):
                yield place
            answered = message.get("tool_call_id")
            if role == "tool" and answered is not None and str(answered) not in open_calls:
                yield f"messages[{number}].tool_call_id"
            if answered is None:
                open_calls.clear()
            open_calls.discard(str(answered))
        before = role
    if before != "assistant":
        yield f"messages[{len(messages) - 1}] {before} → $"
