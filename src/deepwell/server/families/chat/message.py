"""Messages of answers, from what a model has said."""

from __future__ import annotations

import msgspec

from deepwell.dialogue.dialogue import ParsedOutput
from deepwell.server.families.chat.bodies import CalledFunction, Message, ToolCall

__all__ = ["message_of"]


def message_of(said: ParsedOutput) -> Message:
    """Returns a whole message. Its content is null if it has nothing but calls."""
    calls = [ToolCall(call.id, CalledFunction(call.name, call.arguments)) for call in said.calls]
    return Message(
        content=said.content if said.content or not calls else None,
        tool_calls=calls or msgspec.UNSET,
        reasoning_content=said.reasoning or msgspec.UNSET,
    )
