"""The bodies of the Responses and Conversations APIs, as msgspec structs: items, the response object, its events."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import UNSET, Struct, UnsetType

from deepwell.server.families.responses.mcp.bodies import (
    McpApprovalRequest,
    McpApprovalResponse,
    McpCall,
    McpListTools,
)
from deepwell.server.routing.bodies import RouteBody

__all__ = [
    "AnnotationEvent",
    "CompactedResponse",
    "CompactionItem",
    "ConversationRef",
    "FileCitation",
    "FileSearchCall",
    "FileSearchResult",
    "FunctionCall",
    "FunctionCallOutput",
    "ImageCall",
    "ImageCallError",
    "ImageEvent",
    "IncompleteDetails",
    "InputText",
    "InputTokenCount",
    "InputTokensDetails",
    "Item",
    "ItemList",
    "Logprob",
    "MessageItem",
    "OutputText",
    "OutputTokensDetails",
    "PartialImageEvent",
    "PromptUsed",
    "ReasoningItem",
    "ReasoningText",
    "Refusal",
    "Response",
    "ResponseDeleted",
    "ResponseError",
    "ResponseUsage",
    "SearchEvent",
    "SummaryText",
    "TopLogprob",
]

ItemStatus = Literal["in_progress", "completed", "incomplete"]
Status = Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]


class TopLogprob(Struct):
    token: str
    logprob: float
    bytes: list[int]


class Logprob(Struct):
    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[TopLogprob]


class InputText(Struct, tag_field="type", tag="input_text"):
    text: str


class FileCitation(Struct, tag_field="type", tag="file_citation"):
    """The file that a sentence rests on. `index` is the offset of its mark in the text."""

    file_id: str
    filename: str
    index: int


class OutputText(Struct, tag_field="type", tag="output_text"):
    text: str
    annotations: list[FileCitation] = []
    logprobs: list[Logprob] = []


class Refusal(Struct, tag_field="type", tag="refusal"):
    refusal: str


class ReasoningText(Struct, tag_field="type", tag="reasoning_text"):
    text: str


class SummaryText(Struct, tag_field="type", tag="summary_text"):
    text: str


class MessageItem(Struct, tag_field="type", tag="message"):
    """A turn of anybody: parts of users are `input_text`, those of the assistant `output_text`."""

    id: str
    status: ItemStatus
    role: Literal["user", "system", "developer", "assistant"]
    content: list[InputText | OutputText | Refusal]


class ReasoningItem(Struct, tag_field="type", tag="reasoning"):
    id: str
    summary: list[SummaryText]
    content: list[ReasoningText]
    status: ItemStatus
    encrypted_content: str | UnsetType = UNSET


class FunctionCall(Struct, tag_field="type", tag="function_call"):
    id: str
    call_id: str
    name: str
    arguments: str
    status: ItemStatus


class FunctionCallOutput(Struct, tag_field="type", tag="function_call_output"):
    id: str
    call_id: str
    output: str
    status: ItemStatus


class FileSearchResult(Struct):
    """A passage that a search found."""

    file_id: str | None = None
    filename: str | None = None
    score: float | None = None
    text: str | None = None
    attributes: dict[str, str | float | bool] | None = None


class FileSearchCall(Struct, tag_field="type", tag="file_search_call"):
    """A search in vector stores. `results` are null unless the request includes them."""

    id: str
    queries: list[str]
    status: Literal["in_progress", "searching", "completed", "incomplete", "failed"]
    results: list[FileSearchResult] | None = None


class ImageCallError(Struct):
    """The reason why a picture was not drawn."""

    type: str
    message: str
    code: str | None = None
    param: str | None = None


class ImageCall(Struct, tag_field="type", tag="image_generation_call"):
    """A picture that was drawn.

    Attributes:
        result: the file in base64; None: it is not finished, was not drawn, or came back from a client, who has it.
        revised_prompt: the prompt that was drawn.
    """

    id: str
    status: Literal["in_progress", "generating", "completed", "failed"]
    result: str | None = None
    revised_prompt: str | None = None
    size: str | None = None
    quality: str | None = None
    output_format: str | None = None
    background: str | None = "opaque"
    action: str | None = "generate"
    error: ImageCallError | None = None


class CompactionItem(Struct, tag_field="type", tag="compaction"):
    """Text that a compaction has kept of a conversation, in a form that clients send back as it is."""

    id: str
    encrypted_content: str


Item = (
    McpListTools
    | McpCall
    | McpApprovalRequest
    | McpApprovalResponse
    | CompactionItem
    | MessageItem
    | ReasoningItem
    | FunctionCall
    | FunctionCallOutput
    | FileSearchCall
    | ImageCall
)


class ResponseError(Struct):
    code: Literal["server_error", "invalid_prompt"]
    message: str


class IncompleteDetails(Struct):
    reason: Literal["max_output_tokens", "content_filter"]


class ConversationRef(Struct):
    id: str


class InputTokensDetails(Struct):
    cached_tokens: int
    cache_write_tokens: int = 0  # the prefix cache takes every prompt; nothing is charged for it
    context: dict[str, Any] | UnsetType = (
        UNSET  # what became of the input's tokens, unless the policy is strict
    )


class OutputTokensDetails(Struct):
    reasoning_tokens: int


class ResponseUsage(Struct):
    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int


class PromptUsed(Struct):
    """The stored prompt that a request named, with the version that was taken."""

    id: str
    variables: dict[str, str] | None
    version: str


class Response(Struct, tag_field="object", tag="response"):
    """A response: the request, and the output so far."""

    id: str
    created_at: int
    status: Status
    model: str
    output: list[Item]
    background: bool
    parallel_tool_calls: bool
    tool_choice: str | dict[str, Any]
    tools: list[dict[str, Any]]
    text: dict[str, Any]
    temperature: float
    top_p: float
    top_logprobs: int
    metadata: dict[str, str]
    store: bool
    truncation: Literal["auto", "disabled"] = "disabled"
    service_tier: Literal["default"] = "default"
    completed_at: int | None = None
    error: ResponseError | None = None
    incomplete_details: IncompleteDetails | None = None
    instructions: str | list[MessageItem] | None = None  # those of a prompt are messages
    max_output_tokens: int | None = None
    previous_response_id: str | None = None
    conversation: ConversationRef | None = None
    reasoning: dict[str, Any] | None = None
    usage: ResponseUsage | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt: PromptUsed | None = None
    route: RouteBody | UnsetType = UNSET  # extension: the choice of the model `auto`


class CompactedResponse(Struct, tag_field="object", tag="response.compaction"):
    """A conversation that was compacted into one item."""

    id: str
    created_at: int
    output: list[Item]
    usage: ResponseUsage


class ResponseDeleted(Struct, tag_field="object", tag="response"):
    id: str
    deleted: bool = True


class InputTokenCount(Struct, tag_field="object", tag="response.input_tokens"):
    input_tokens: int


class ItemList(Struct, tag_field="object", tag="list"):
    data: list[Item]
    first_id: str | None
    last_id: str | None
    has_more: bool


class Created(Struct):
    """`response.created`, `in_progress`, `queued`, `completed`, `incomplete` and `failed`."""

    type: str
    response: Response
    sequence_number: int


class ItemEvent(Struct):
    """`response.output_item.added` and `done`."""

    type: str
    output_index: int
    item: Item
    sequence_number: int


class PartEvent(Struct):
    """`response.content_part.added` and `done`."""

    type: str
    item_id: str
    output_index: int
    content_index: int
    part: OutputText | ReasoningText
    sequence_number: int


class DeltaEvent(Struct, omit_defaults=True):
    """`response.output_text.delta`, `response.reasoning_text.delta`, `response.function_call_arguments.delta`."""

    type: str
    item_id: str
    output_index: int
    delta: str
    sequence_number: int
    content_index: int | UnsetType = UNSET
    logprobs: list[Logprob] | UnsetType = UNSET


class DoneEvent(Struct, omit_defaults=True):
    """The same three at their end, with the whole."""

    type: str
    item_id: str
    output_index: int
    sequence_number: int
    content_index: int | UnsetType = UNSET
    text: str | UnsetType = UNSET
    arguments: str | UnsetType = UNSET
    name: str | UnsetType = UNSET
    logprobs: list[Logprob] | UnsetType = UNSET


class SearchEvent(Struct):
    """`response.file_search_call.in_progress`, `searching` and `completed`."""

    type: str
    item_id: str
    output_index: int
    sequence_number: int


class ImageEvent(Struct):
    """`response.image_generation_call.in_progress`, `generating` and `completed`."""

    type: str
    item_id: str
    output_index: int
    sequence_number: int


class PartialImageEvent(Struct):
    """`response.image_generation_call.partial_image`."""

    type: str
    item_id: str
    output_index: int
    partial_image_index: int
    partial_image_b64: str
    sequence_number: int
    size: str
    quality: str
    output_format: str
    background: str = "opaque"


class AnnotationEvent(Struct):
    """`response.output_text.annotation.added`."""

    type: str
    item_id: str
    output_index: int
    content_index: int
    annotation_index: int
    annotation: FileCitation
    sequence_number: int


class ErrorEvent(Struct):
    """`error`: the stream ends here."""

    type: str
    code: str | None
    message: str
    param: str | None
    sequence_number: int
