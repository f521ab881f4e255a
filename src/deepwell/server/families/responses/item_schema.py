"""The input items of the Responses and Conversations APIs."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self, cast

import msgspec
from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from deepwell.server.attachments.schema import (
    INPUT_PARTS,
    Attaching,
    InputAudioPart,
    InputFilePart,
    InputImagePart,
)
from deepwell.server.families.responses.image_schema import ImageCallInput
from deepwell.server.families.responses.mcp.schema import (
    McpApprovalRequestInput,
    McpApprovalResponseInput,
    McpCallInput,
    McpListToolsInput,
)
from deepwell.server.http.schema import (
    MAX_ENTRIES,
    TAG_MARK,
    Strict,
    counted,
    crossed,
    kind_of,
    only_kinds,
    refuse,
)

__all__ = [
    "ITEM_TYPES",
    "PART_TYPES",
    "Compacted",
    "CompactionInput",
    "FileSearchCallInput",
    "FunctionCallInput",
    "FunctionOutputInput",
    "ImageCallInput",
    "ItemInput",
    "ItemReference",
    "MessageInput",
    "ReasoningInput",
    "RefusalPart",
    "TextPart",
    "compacted_in",
    "compaction_of",
    "sealed",
    "unsealed",
]

ITEM_TYPES = (
    "message",
    "function_call",
    "function_call_output",
    "file_search_call",
    "image_generation_call",
    "mcp_list_tools",
    "mcp_call",
    "mcp_approval_request",
    "mcp_approval_response",
    "reasoning",
    "compaction",
    "item_reference",
)
_TEXT_TYPES = ("input_text", "output_text", "text", "refusal")
PART_TYPES = (*_TEXT_TYPES, *INPUT_PARTS)
_SEAL = "dw1."  # in front of reasoning that was made here


def sealed(text: str) -> str:
    """Returns reasoning as `encrypted_content`: opaque to clients, who send it back instead of the text."""
    return _SEAL + base64.urlsafe_b64encode(text.encode("utf-8", "surrogatepass")).decode()


def unsealed(content: str) -> str | None:
    """Returns the reasoning in an `encrypted_content`, or None if it was not made here."""
    if not content.startswith(_SEAL):
        return None
    try:
        return base64.b64decode(content[len(_SEAL) :], b"-_", validate=True).decode("utf-8", "surrogatepass")
    except (binascii.Error, ValueError):
        return None


class Compacted(msgspec.Struct, array_like=True, frozen=True):
    """A message in a compaction. What a tool has returned stays that: nobody in the conversation has said it."""

    role: Literal["user", "assistant", "system", "tool"]
    content: str


_compacted = msgspec.json.Decoder(list[Compacted])


def compaction_of(messages: Sequence[Compacted]) -> str:
    """Returns messages as the `encrypted_content` of a compaction."""
    return sealed(msgspec.json.encode(messages).decode())


def compacted_in(content: str) -> list[Compacted] | None:
    """Returns the messages in the `encrypted_content` of a compaction, or None if it was not made here."""
    try:
        return _compacted.decode(unsealed(content) or "")
    except (msgspec.DecodeError, UnicodeEncodeError):
        return None


Id = Annotated[str, Field(min_length=1, max_length=64)]


class CitationPart(Strict):
    """A citation in an earlier answer."""

    type: Literal["file_citation"]
    file_id: str = Field(max_length=64)
    filename: str = Field(max_length=4096)
    index: int = Field(ge=0)


class TextPart(Strict):
    """A piece of a message, of whoever wrote it."""

    type: Literal["input_text", "output_text", "text"]
    text: str
    annotations: (
        Annotated[
            list[Annotated[CitationPart, only_kinds("annotations", "file_citation")]],
            Field(max_length=MAX_ENTRIES),
        ]
        | None
    ) = None
    logprobs: Any = None  # accepted because responses carry them: they say nothing to the model
    prompt_cache_breakpoint: Annotated[Any, refuse("prefixes are always cached: leave it out")] = None


class RefusalPart(Strict):
    """A refusal that is sent back."""

    type: Literal["refusal"]
    refusal: str


def _part_kind(value: Any) -> str:
    return f"{TAG_MARK}refusal" if kind_of(value) == "refusal" else f"{TAG_MARK}text"


Part = Annotated[
    Annotated[TextPart, Tag(f"{TAG_MARK}text")] | Annotated[RefusalPart, Tag(f"{TAG_MARK}refusal")],
    Discriminator(_part_kind),
    only_kinds("content parts", *_TEXT_TYPES),
]


def _message_part_kind(value: Any) -> str:
    kind = kind_of(value)
    return f"{TAG_MARK}{kind}" if kind in INPUT_PARTS else _part_kind(value)


MessagePart = Annotated[
    Annotated[TextPart, Tag(f"{TAG_MARK}text")]
    | Annotated[RefusalPart, Tag(f"{TAG_MARK}refusal")]
    | Annotated[InputImagePart, Tag(f"{TAG_MARK}input_image")]
    | Annotated[InputAudioPart, Tag(f"{TAG_MARK}input_audio")]
    | Annotated[InputFilePart, Tag(f"{TAG_MARK}input_file")],
    Discriminator(_message_part_kind),
    only_kinds("content parts", *PART_TYPES),
]


def _parts(value: Any) -> Any:
    return [{"type": "input_text", "text": value}] if isinstance(value, str) else counted(value)


_Most = Field(max_length=MAX_ENTRIES)
Parts = Annotated[
    list[Part], BeforeValidator(_parts, json_schema_input_type=str | Annotated[list[Part], _Most])
]

MessageParts = Annotated[
    list[MessagePart],
    BeforeValidator(_parts, json_schema_input_type=str | Annotated[list[MessagePart], _Most]),
]

Status = Literal["in_progress", "completed", "incomplete"] | None


class MessageInput(Attaching):
    """A turn of the conversation."""

    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: MessageParts
    id: Id | None = None
    status: Status = None
    phase: Literal["commentary", "final_answer"] | None = None

    @model_validator(mode="after")
    def _attached(self) -> Self:
        if self.role != "user" and not all(isinstance(one, TextPart | RefusalPart) for one in self.content):
            raise crossed("content", f"only messages of users have attachments: send text as {self.role}")
        return self


class FunctionCallInput(Strict):
    """A call that the model made before."""

    type: Literal["function_call"]
    call_id: str = Field(min_length=1, max_length=256)
    name: str = Field(min_length=1, max_length=128)
    arguments: str
    id: Id | None = None
    status: Status = None
    caller: Annotated[Any, refuse("callers are not supported: leave caller out")] = None
    namespace: Annotated[Any, refuse("namespaces are not supported: leave namespace out")] = None


class FunctionOutputInput(Strict):
    """The result of a function."""

    type: Literal["function_call_output"]
    call_id: str = Field(min_length=1, max_length=256)
    output: Parts
    id: Id | None = None
    status: Status = None
    name: str | None = None  # a label: the call has it
    caller: Annotated[Any, refuse("callers are not supported: leave caller out")] = None
    namespace: Annotated[Any, refuse("namespaces are not supported: leave namespace out")] = None


class FileSearchResultInput(Strict):
    """A passage that a search found before."""

    file_id: str | None = None
    filename: str | None = None
    score: float | None = None
    text: str | None = None
    attributes: dict[str, str | bool | float] | None = None


class FileSearchCallInput(Strict):
    """A search that was made before. The model does not read its results again: a new turn is searched anew."""

    type: Literal["file_search_call"]
    queries: list[str] = Field(max_length=MAX_ENTRIES)
    id: Id | None = None
    status: Literal["in_progress", "searching", "completed", "incomplete", "failed"] | None = None
    results: Annotated[list[FileSearchResultInput] | None, BeforeValidator(counted), _Most] = None


class ReasoningPart(Strict):
    """A piece of reasoning."""

    type: Literal["reasoning_text", "summary_text"]
    text: str


class ReasoningInput(Strict):
    """Reasoning of an earlier answer; the chat template decides what the model sees of it again."""

    type: Literal["reasoning"]
    id: Id | None = None
    summary: Annotated[list[ReasoningPart], BeforeValidator(counted), _Most] = Field(
        default_factory=list[ReasoningPart]
    )
    content: Annotated[list[ReasoningPart] | None, BeforeValidator(counted), _Most] = None
    status: Status = None
    encrypted_content: str | None = None

    @model_validator(mode="after")
    def _readable(self) -> Self:
        if self.encrypted_content is not None and unsealed(self.encrypted_content) is None:
            raise crossed("encrypted_content", "the encrypted reasoning was not made here: leave it out")
        return self


class CompactionInput(Strict):
    """Text that `POST /v1/responses/compact` has kept of a conversation."""

    type: Literal["compaction"]
    encrypted_content: str
    id: Id | None = None
    created_by: str | None = None  # a label

    @model_validator(mode="after")
    def _readable(self) -> Self:
        said = compacted_in(self.encrypted_content)
        if said is None:
            raise crossed("encrypted_content", "the compaction was not made here: leave the item out")
        if len(said) > MAX_ENTRIES:
            raise crossed(
                "encrypted_content",
                f"the compaction has more than {MAX_ENTRIES} messages: leave the item out",
            )
        return self


class ItemReference(Strict):
    """An item of a stored response, by its id."""

    type: Literal["item_reference"] | None = None
    id: str = Field(min_length=1, max_length=128)


def _item_kind(value: Any) -> str:
    kind = kind_of(value)
    if not kind and isinstance(value, dict) and cast("dict[str, Any]", value).keys() == {"id"}:
        kind = "item_reference"  # the one kind that OpenAI also takes without its type
    return TAG_MARK + (kind or "message")


ItemInput = Annotated[
    Annotated[MessageInput, Tag(f"{TAG_MARK}message")]
    | Annotated[FunctionCallInput, Tag(f"{TAG_MARK}function_call")]
    | Annotated[FunctionOutputInput, Tag(f"{TAG_MARK}function_call_output")]
    | Annotated[FileSearchCallInput, Tag(f"{TAG_MARK}file_search_call")]
    | Annotated[ImageCallInput, Tag(f"{TAG_MARK}image_generation_call")]
    | Annotated[McpListToolsInput, Tag(f"{TAG_MARK}mcp_list_tools")]
    | Annotated[McpCallInput, Tag(f"{TAG_MARK}mcp_call")]
    | Annotated[McpApprovalRequestInput, Tag(f"{TAG_MARK}mcp_approval_request")]
    | Annotated[McpApprovalResponseInput, Tag(f"{TAG_MARK}mcp_approval_response")]
    | Annotated[ReasoningInput, Tag(f"{TAG_MARK}reasoning")]
    | Annotated[CompactionInput, Tag(f"{TAG_MARK}compaction")]
    | Annotated[ItemReference, Tag(f"{TAG_MARK}item_reference")],
    Discriminator(_item_kind),
    only_kinds("items", *ITEM_TYPES, default="message"),
]
