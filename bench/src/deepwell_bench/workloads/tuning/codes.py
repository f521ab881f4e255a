"""Conversations for fine-tuning: questions for the codes of items, with answers of one form."""

from __future__ import annotations

import json

__all__ = ["code_conversations"]


def code_conversations(first: int, count: int) -> bytes:
    """Returns conversations as JSON lines, about the items from `first` on."""
    lines: list[str] = []
    for number in range(first, first + count):
        said = [
            {"role": "user", "content": f"What is the code of item {number}?"},
            {"role": "assistant", "content": f"The code of item {number} is ZX-{7 * number}."},
        ]
        lines.append(json.dumps({"messages": said}))
    return ("\n".join(lines) + "\n").encode()
