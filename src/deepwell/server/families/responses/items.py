"""Items of the Responses API: from those of a request to stored ones, and from stored ones to chat messages."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from deepwell.errors import InvalidRequest
from deepwell.server.families.responses.bodies import (
    CompactionItem,
    FileCitation,
    FileSearchCall,
    FileSearchResult,
    FunctionCall,
    FunctionCallOutput,
    ImageCall,
    InputText,
    Item,
    MessageItem,
    OutputText,
    ReasoningItem,
    ReasoningText,
    Refusal,
    SummaryText,
)
from deepwell.server.families.responses.item_schema import (
    CompactionInput,
    FileSearchCallInput,
    FunctionCallInput,
    FunctionOutputInput,
    ImageCallInput,
    ItemInput,
    ItemReference,
    MessageInput,
    ReasoningInput,
    RefusalPart,
    TextPart,
    compacted_in,
    unsealed,
)
from deepwell.server.families.responses.mcp.bodies import (
    McpApprovalRequest,
    McpApprovalResponse,
    McpCall,
    McpListTools,
)
from deepwell.server.families.responses.mcp.kept import McpInput, decisions_in, mcp_item, mcp_messages
from deepwell.server.families.responses.mcp.schema import (
    McpApprovalRequestInput,
    McpApprovalResponseInput,
    McpCallInput,
    McpListToolsInput,
)

__all__ = [
    "decode_items",
    "drawn_text",
    "encode_item",
    "item_id",
    "messages_of",
    "new_id",
    "text_of",
    "to_items",
]

_MOST_PROMPT = 600  # characters of a prompt that an earlier picture is told by

encode_item = msgspec.json.Encoder().encode
decode_items = msgspec.json.Decoder(list[Item]).decode


def new_id(prefix: str) -> str:
    """Returns an id that nobody can guess: `msg_0f3c...`."""
    return f"{prefix}_{uuid.uuid4().hex}"


def item_id(prefix: str, response_id: str, place: str) -> str:
    """Returns the id of an item of a response, which it is found by: `place` is `i` or `o` and its number there."""
    return f"{prefix}_{response_id.removeprefix('resp_')}{place}"


def to_items(
    given: Sequence[ItemInput], found: Mapping[str, Item] | None = None, response_id: str | None = None
) -> list[Item]:
    """Returns a request's items, each with an id.

    Args:
        found: the items that the request refers to. Each is taken once; a reference to another one is left out, because the
            model has read that item before.
        response_id: the response that keeps the items. If it is None, their ids are random.
    """
    items: list[Item] = []
    left = dict(found or {})
    for number, one in enumerate(given):
        if isinstance(one, ItemReference):
            if (item := left.pop(one.id, None)) is not None:
                items.append(item)
        elif response_id is None:
            items.append(_item(one, new_id))
        else:
            items.append(_item(one, lambda prefix, place=f"i{number}": item_id(prefix, response_id, place)))
    return items


def _item(
    one: MessageInput
    | FunctionCallInput
    | FunctionOutputInput
    | FileSearchCallInput
    | ImageCallInput
    | ReasoningInput
    | CompactionInput
    | McpInput,
    new: Callable[[str], str],
) -> Item:
    match one:
        case MessageInput():
            return _message(one, new)
        case FunctionCallInput():
            return FunctionCall(one.id or new("fc"), one.call_id, one.name, one.arguments, "completed")
        case FunctionOutputInput():
            text = "".join(
                part.refusal if isinstance(part, RefusalPart) else part.text for part in one.output
            )
            return FunctionCallOutput(one.id or new("fco"), one.call_id, text, "completed")
        case FileSearchCallInput():
            found = None if one.results is None else [FileSearchResult(**dict(part)) for part in one.results]
            return FileSearchCall(one.id or new("fs"), one.queries, one.status or "completed", found)
        case ImageCallInput():
            # The picture itself says nothing to the model, and its client has it.
            return ImageCall(
                one.id or new("ig"),
                one.status or "completed",
                revised_prompt=one.revised_prompt,
                size=one.size,
                quality=one.quality,
                output_format=one.output_format,
                background=one.background,
                action=one.action,
            )
        case McpListToolsInput() | McpCallInput() | McpApprovalRequestInput() | McpApprovalResponseInput():
            return mcp_item(one, new)
        case CompactionInput():
            return CompactionItem(one.id or new("cmp"), one.encrypted_content)
        case ReasoningInput():
            sealed = one.encrypted_content
            texts = [part.text for part in one.content or ()]
            if not texts and sealed is not None:
                texts = [unsealed(sealed) or ""]
            return ReasoningItem(
                one.id or new("rs"),
                [SummaryText(part.text) for part in one.summary],
                [ReasoningText(text) for text in texts],
                "completed",
                msgspec.UNSET if sealed is None else sealed,
            )


def _message(one: MessageInput, new: Callable[[str], str]) -> MessageItem:
    parts: list[InputText | OutputText | Refusal] = []
    for part in one.content:
        if isinstance(part, RefusalPart):
            parts.append(Refusal(part.refusal))
        elif not isinstance(part, TextPart):
            raise InvalidRequest.of("attachment_elsewhere", param="input")
        elif one.role == "assistant":
            cited = [FileCitation(each.file_id, each.filename, each.index) for each in part.annotations or ()]
            parts.append(OutputText(part.text, cited))
        else:
            parts.append(InputText(part.text))
    return MessageItem(one.id or new("msg"), one.status or "completed", one.role, parts)


def text_of(message: MessageItem) -> str:
    """Returns all parts of a message, joined."""
    return "".join(part.refusal if isinstance(part, Refusal) else part.text for part in message.content)


def drawn_text(call: ImageCall) -> str:
    """Returns the marked text by which a model is told of a picture: its prompt, without line breaks and brackets."""
    prompt = " ".join((call.revised_prompt or "").split()).replace("[", "(").replace("]", ")")
    if len(prompt) > _MOST_PROMPT:
        prompt = f"{prompt[: _MOST_PROMPT - 1]}…"
    if call.status == "failed":
        return f"[no picture was drawn: {prompt}]" if prompt else "[no picture was drawn]"
    return f"[a picture was drawn: {prompt}]" if prompt else "[a picture was drawn]"


def messages_of(
    items: Sequence[Item], instructions: str | Sequence[MessageItem] | None = None
) -> list[dict[str, Any]]:
    """Returns chat messages that say the same. An answer's reasoning, text and calls become one assistant message.

    Args:
        instructions: what comes before the items: a system message, or the messages of a prompt.
    """
    messages: list[dict[str, Any]] = []
    if instructions is not None and not isinstance(instructions, str):
        items = [*instructions, *items]
    elif instructions is not None:
        messages.append({"role": "system", "content": instructions})
    reasoning = ""
    decisions = decisions_in(items)
    drawn: dict[str, Any] | None = None  # the message that tells of pictures alone so far

    def assistant(*, calls: bool) -> dict[str, Any]:
        nonlocal reasoning
        last = messages[-1] if messages else None
        if last is None or last["role"] != "assistant" or not calls:
            last = {"role": "assistant", "content": None}
            messages.append(last)
        if reasoning:
            last["reasoning_content"] = reasoning
            reasoning = ""
        return last

    for item in items:
        match item:
            case ImageCall():
                last = messages[-1] if messages else None
                if last is None or last["role"] != "assistant":
                    last = drawn = assistant(calls=False)
                last["content"] = "\n".join(filter(None, (last["content"], drawn_text(item))))
            case MessageItem(role="assistant") if drawn is not None and messages[-1] is drawn:
                drawn["content"] += f"\n{text_of(item)}"
                drawn = None
            case MessageItem(role="assistant"):
                assistant(calls=False)["content"] = text_of(item)
            case MessageItem():
                role = "system" if item.role == "developer" else item.role
                messages.append({"role": role, "content": text_of(item)})
            case ReasoningItem():
                reasoning += "".join(part.text for part in item.content)
            case FunctionCall():
                function = {"name": item.name, "arguments": item.arguments}
                call = {"id": item.call_id, "type": "function", "function": function}
                assistant(calls=True).setdefault("tool_calls", []).append(call)
            case McpListTools() | McpCall() | McpApprovalRequest() | McpApprovalResponse():
                for told in mcp_messages(item, decisions):
                    if told["role"] == "tool":
                        messages.append(told)
                    else:
                        assistant(calls=True).setdefault("tool_calls", []).extend(told["tool_calls"])
            case FunctionCallOutput():
                messages.append({"role": "tool", "tool_call_id": item.call_id, "content": item.output})
            case CompactionItem():
                for number, one in enumerate(compacted_in(item.encrypted_content) or ()):
                    if one.role == "tool":
                        messages += _returned(f"compacted_{number}", one.content)
                    else:
                        messages.append({"role": one.role, "content": one.content})
            case FileSearchCall():  # its passages stood in the prompt of that turn alone
                pass
    return messages


def _returned(call_id: str, output: str) -> list[dict[str, Any]]:
    """Returns the messages of a tool's result whose call is no more: a result always answers a call."""
    call = {"id": call_id, "type": "function", "function": {"name": "compacted", "arguments": "{}"}}
    return [
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": call_id, "content": output},
    ]
