"""The requests of the Responses API."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from deepwell.server.families.prompts.schema import PromptReference
from deepwell.server.families.responses.image_schema import ImageSpec
from deepwell.server.families.responses.item_schema import ItemInput
from deepwell.server.families.responses.mcp.schema import McpSpec
from deepwell.server.families.responses.tool_schema import FileSearchSpec, Tool, ToolChoice, ToolSpec
from deepwell.server.http.schema import MAX_ENTRIES, Metadata, Strict, crossed, only_values, refuse

__all__ = [
    "ENCRYPTED",
    "FORMAT_TYPES",
    "INCLUDES",
    "LOGPROBS",
    "RESULTS",
    "InputItemsQuery",
    "InputTokensRequest",
    "ListQuery",
    "Metadata",
    "ResponseRequest",
    "RetrieveQuery",
]

LOGPROBS, ENCRYPTED = "message.output_text.logprobs", "reasoning.encrypted_content"
RESULTS = "file_search_call.results"
INCLUDES = (LOGPROBS, ENCRYPTED, RESULTS)
_MOST_SERVERS = 8
FORMAT_TYPES = ("text", "json_object", "json_schema")
_NO_BUILT_IN = "file_search is the one built-in tool here, and there are no images: leave it out"
Include = Annotated[
    Literal["message.output_text.logprobs", "reasoning.encrypted_content", "file_search_call.results"],
    only_values("the include", *INCLUDES, instead=_NO_BUILT_IN),
]


def _input(value: Any) -> Any:
    return [{"type": "message", "role": "user", "content": value}] if isinstance(value, str) else value


def _conversation(value: Any) -> Any:
    return {"id": value} if isinstance(value, str) else value


class ConversationId(Strict):
    """A conversation, by its id."""

    id: str


class ReasoningOptions(Strict):
    """The effort that a model is to spend on thinking."""

    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    summary: Annotated[Any, refuse("reasoning is returned whole: leave summary out", "auto")] = None
    generate_summary: Annotated[Any, refuse("reasoning is returned whole: leave it out", "auto")] = None
    context: Annotated[Any, refuse("the chat template decides: leave context out", "auto")] = None
    mode: Annotated[Any, refuse("there is one mode: leave it out", "standard")] = None


class TextFormat(Strict):
    """The format that the text must have."""

    type: Annotated[Literal["text", "json_object", "json_schema"], only_values("the format", *FORMAT_TYPES)]
    name: str | None = Field(None, max_length=64)
    description: str | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    strict: bool | None = None

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        if self.type == "json_schema" and (self.schema_ is None or self.name is None):
            raise PydanticCustomError("format", "a format of type json_schema needs a name and a schema")
        if self.type != "json_schema" and (self.schema_ is not None or self.name is not None):
            raise PydanticCustomError("format", "name and schema need a format of type json_schema")
        return self


class TextOptions(Strict):
    """Options of the text: its format and length."""

    format: TextFormat | None = None
    verbosity: Annotated[Any, refuse("verbosity is not supported: ask in the input")] = None


class StreamOptions(Strict):
    """Options of a stream: the parts that it carries besides its events."""

    include_obfuscation: Annotated[Any, refuse("stream obfuscation is not supported", False)] = None


class _Prompted(Strict):
    """The parameters that become the prompt, which the counting of tokens and an answer share."""

    input: Annotated[
        list[ItemInput],
        BeforeValidator(_input, json_schema_input_type=str | list[ItemInput]),
        Field(max_length=MAX_ENTRIES),
    ] = Field(default_factory=list[ItemInput])
    instructions: str | None = None
    previous_response_id: str | None = None
    conversation: Annotated[
        ConversationId | None,
        BeforeValidator(_conversation, json_schema_input_type=str | ConversationId | None),
    ] = None
    reasoning: ReasoningOptions | None = None
    text: TextOptions | None = None
    tools: list[Tool] | None = Field(None, max_length=128)
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    truncation: Literal["auto", "disabled"] | None = Field(
        None,
        description="auto: fits an input that is too long to the context, by the policy `auto`; disabled: the server decides.",
    )

    @model_validator(mode="after")
    def _one_history(self) -> Self:
        if self.previous_response_id is not None and self.conversation is not None:
            raise crossed(
                "previous_response_id",
                "previous_response_id and conversation exclude each other: send one",
            )
        searches = [
            number for number, tool in enumerate(self.tools or ()) if isinstance(tool, FileSearchSpec)
        ]
        if len(searches) > 1:
            raise crossed(
                f"tools.{searches[1]}", "there are two file_search tools: list all vector_store_ids in one"
            )
        self._check_images()
        self._check_servers(bool(searches))
        return self

    def _check_servers(self, searches: bool) -> None:
        tools = list(enumerate(self.tools or ()))
        labels: list[str] = []
        for number, tool in tools:
            if not isinstance(tool, McpSpec):
                continue
            if searches:
                raise crossed(f"tools.{number}", "file_search and mcp exclude each other: send one of them")
            if tool.server_label in labels:
                raise crossed(
                    f"tools.{number}.server_label", "two MCP servers have the same label: rename one"
                )
            labels.append(tool.server_label)
        if len(labels) > _MOST_SERVERS:
            raise crossed("tools", f"there are more than {_MOST_SERVERS} MCP servers: send fewer")
        for number, tool in tools:
            if isinstance(tool, ToolSpec) and tool.name.startswith(tuple(f"{label}__" for label in labels)):
                raise crossed(
                    f"tools.{number}", f"{tool.name} may be the name of a tool of an MCP server: rename yours"
                )

    def _check_images(self) -> None:
        tools = list(enumerate(self.tools or ()))
        images = [(number, tool) for number, tool in tools if isinstance(tool, ImageSpec)]
        if not images:
            return
        if len(images) > 1:
            raise crossed(f"tools.{images[1][0]}", "there are two image_generation tools: send one")
        for number, tool in tools:
            if isinstance(tool, ToolSpec) and tool.name == "image_generation":
                raise crossed(
                    f"tools.{number}", "image_generation is the name of a tool of the server: rename yours"
                )
        number, spec = images[0]
        if spec.output_compression not in (None, 100) and spec.output_format in (None, "png"):
            raise crossed(
                f"tools.{number}.output_compression",
                "PNG is not compressed with a loss: send output_format jpeg or webp",
            )


class InputTokensRequest(_Prompted):
    """`POST /v1/responses/input_tokens`."""

    model: str | None = None
    personality: Annotated[Any, refuse("personalities are not supported: say it in instructions")] = None


class CompactRequest(_Prompted):
    """`POST /v1/responses/compact`."""

    model: str
    prompt_cache_key: str | None = None
    prompt_cache_options: Annotated[Any, refuse("prefixes are always cached: leave it out")] = None
    service_tier: str | None = None
    image: Annotated[Any, refuse("images are not supported: leave image out")] = None


class ResponseRequest(_Prompted):
    """`POST /v1/responses`."""

    model: str
    background: bool | None = None
    include: list[Include] | None = None
    max_output_tokens: int | None = Field(None, ge=1)
    metadata: Metadata | None = None
    store: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    top_logprobs: int | None = Field(None, ge=0, le=20)
    max_tool_calls: int | None = Field(
        None, ge=1, description="Calls on MCP servers that are made at most; further ones are left out."
    )
    prompt: PromptReference | None = Field(
        None,
        description="A stored prompt, whose messages come before the input. `instructions` replace its own.",
    )
    moderation: Annotated[Any, refuse("moderation is not supported yet: leave it out")] = None
    context_management: Annotated[Any, refuse("nothing is ever compacted: leave it out", [])] = None
    background_options: Annotated[Any, refuse("background work begins at once: leave it out")] = None
    access_programs: Annotated[Any, refuse("access programs are not supported: leave it out")] = None
    image: Annotated[Any, refuse("images are not supported: leave image out")] = None
    multi_agent: Annotated[Any, refuse("one model answers: leave multi_agent out")] = None
    prompt_cache_options: Annotated[Any, refuse("prefixes are always cached: leave it out")] = None
    # Harmless labels, which change nothing about the answer.
    user: str | None = None
    safety_identifier: str | None = None
    service_tier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    client_metadata: dict[str, Any] | None = Field(
        None, max_length=64, description="Codex's labels of a turn. They change nothing about the answer."
    )

    seed: int | None = Field(None, ge=-(2**63), lt=2**63, description="As of chat completions.")
    top_k: int | None = Field(None, ge=-1, description="vLLM's; 0 or -1: off.")
    min_p: float | None = Field(None, ge=0, le=1, description="vLLM's.")
    repetition_penalty: float | None = Field(None, gt=0, le=10, description="vLLM's.")

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise crossed("stream_options", "stream_options needs stream: true")
        if self.background and self.store is False:
            raise crossed("background", "background needs store: true, or nobody could fetch it")
        if (
            not self.input
            and not self.instructions
            and not self.prompt
            and not self.previous_response_id
            and not self.conversation
        ):
            raise crossed("input", "there is nothing to answer: send input")
        if LOGPROBS in (self.include or ()) and any(
            isinstance(one, FileSearchSpec) for one in self.tools or ()
        ):
            raise crossed(
                "include",
                "log probabilities belong to text that checked citations change: leave them or file_search out",
            )
        images = [number for number, one in enumerate(self.tools or ()) if isinstance(one, ImageSpec)]
        for number in images:
            spec = (self.tools or ())[number]
            if isinstance(spec, ImageSpec) and spec.partial_images and not self.stream:
                raise crossed(
                    f"tools.{number}.partial_images",
                    "partial_images needs stream: unfinished pictures come as events",
                )
        if self.top_logprobs and LOGPROBS not in (self.include or ()):
            raise crossed("top_logprobs", f"top_logprobs needs include: ['{LOGPROBS}']")
        return self


class _Query(BaseModel):
    model_config = ConfigDict(extra="forbid", populate_by_name=True)


class IncludeQuery(_Query):
    """A part that an answer may include. The server never leaves one out."""

    include: list[Include] | None = None
    include_: list[Include] | None = Field(None, alias="include[]")


class ListQuery(IncludeQuery):
    """One page of a list."""

    after: str | None = Field(None, description="The last id of the page before.")
    limit: int = Field(20, ge=1, le=100)
    order: Literal["asc", "desc"] = "desc"


_BETA = "Accepted: the SDK's `client.beta.responses` sends it. It changes nothing."


class InputItemsQuery(ListQuery):
    """`GET /v1/responses/{id}/input_items`."""

    beta: bool = Field(False, description=_BETA)


class RetrieveQuery(IncludeQuery):
    """`GET /v1/responses/{id}`."""

    beta: bool = Field(False, description=_BETA)
    stream: bool = False
    starting_after: int | None = Field(None, ge=0, description="The last sequence_number that arrived.")
    include_obfuscation: bool = Field(False, description="Must be false: nothing is obfuscated.")
