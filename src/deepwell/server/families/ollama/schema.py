"""The requests of ollama's API."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, cast

from pydantic import AfterValidator, BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from deepwell.dialogue.tools import ANY_OBJECT, FunctionTool, json_format
from deepwell.engine.protocol import Grammar
from deepwell.server.families.chat.schema import FunctionSpec, OnlyFunction
from deepwell.server.families.embeddings.schema import MAX_INPUTS
from deepwell.server.families.generation_schema import MAX_ALTERNATIVES
from deepwell.server.families.ollama.keep_alive import keep_alive_s
from deepwell.server.families.ollama.options import OllamaOptions
from deepwell.server.http.schema import (
    MAX_ENTRIES,
    Strict,
    counted,
    crossed,
    either,
    only_values,
    refuse,
    unsupported,
)

__all__ = [
    "OllamaChatRequest",
    "OllamaEmbedRequest",
    "OllamaEmbeddingsRequest",
    "OllamaGenerateRequest",
    "OllamaGenerationRequest",
    "OllamaMessage",
    "OllamaShowRequest",
    "plain_messages",
]

_NO_OPTIONS = OllamaOptions.model_construct()  # which builds no validator
_ROLES = ("system", "user", "assistant", "tool")


def _check_keep_alive(value: Any) -> Any:
    try:
        keep_alive_s(value)
    except ValueError as error:
        raise PydanticCustomError(
            "keep_alive", "{reason}: send seconds, or text such as '5m' or '-1'", {"reason": str(error)}
        ) from None
    return value


KeepAlive = Annotated[
    Any,
    BeforeValidator(_check_keep_alive, json_schema_input_type=float | str | None),
    Field(
        description="Checked. 0 without input unloads the model. Else the server's own setting decides when it is unloaded."
    ),
]


def _format(value: Any) -> Any:
    if value is None or value == "" or value == "json" or isinstance(value, dict):
        return value or None
    if isinstance(value, str):
        raise unsupported(f"the format {value!r} is not supported: send 'json' or a JSON schema")
    raise PydanticCustomError("format", "should be 'json' or a JSON schema")


Format = Annotated[
    str | dict[str, Any] | None, BeforeValidator(_format, json_schema_input_type=str | dict[str, Any] | None)
]
Images = Annotated[list[Annotated[str, Field(min_length=1)]] | None, BeforeValidator(counted)]
"""Images in base64."""

if TYPE_CHECKING:
    Think = bool | Literal["low", "medium", "high"] | None
else:
    Think = Annotated[either(Literal["low", "medium", "high"], bool), Field()] | None


class OllamaTool(Strict):
    """A tool that the model may call."""

    type: OnlyFunction = "function"
    function: FunctionSpec

    def tool(self) -> FunctionTool:
        """Returns the tool as the rest of the server uses it."""
        spec = self.function
        return FunctionTool(spec.name, spec.description or "", spec.parameters or {}, bool(spec.strict))


class OllamaCalledFunction(Strict):
    """The function that was called, and its arguments."""

    name: str
    arguments: dict[str, Any] = Field(default_factory=dict[str, Any])
    index: int | None = None


class OllamaToolCall(Strict):
    """A call that the assistant made."""

    function: OllamaCalledFunction
    id: str | None = Field(None, max_length=256)
    type: OnlyFunction | None = None
    index: int | None = None


class OllamaMessage(Strict):
    """One turn."""

    role: Annotated[Literal["system", "user", "assistant", "tool"], only_values("the role", *_ROLES)]
    content: str | None = None
    thinking: str | None = None
    images: Images = None
    tool_calls: Annotated[list[OllamaToolCall] | None, BeforeValidator(counted)] = Field(None, max_length=128)
    tool_name: str | None = None
    tool_call_id: str | None = Field(None, max_length=256)

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        for name, role in (
            ("tool_calls", "assistant"),
            ("thinking", "assistant"),
            ("tool_name", "tool"),
            ("tool_call_id", "tool"),
            ("images", "user"),
        ):
            if getattr(self, name) and self.role != role:
                raise crossed(name, f"{name} belongs to messages with the role {role!r}")
        return self


def plain_messages(messages: list[OllamaMessage]) -> list[dict[str, Any]]:
    """Returns the messages as `Dialogue` takes them.

    A result without an id answers the first open call of its `tool_name`, or the first one if it has no name.
    """
    found: list[dict[str, Any]] = []
    open_calls: list[tuple[str, str]] = []  # id and name of the calls that have no result yet
    for number, message in enumerate(messages):
        plain: dict[str, Any] = {"role": message.role, "content": message.content or ""}
        if message.role == "tool":
            plain["tool_call_id"] = _answered(message, open_calls)
        if message.thinking:
            plain["reasoning_content"] = message.thinking
        if message.tool_calls:
            calls = [
                (call.id or f"call_{number}_{index}", call.function)
                for index, call in enumerate(message.tool_calls)
            ]
            open_calls = [(id, function.name) for id, function in calls]
            plain["content"] = message.content or None
            plain["tool_calls"] = [
                {
                    "id": id,
                    "type": "function",
                    "function": {
                        "name": function.name,
                        "arguments": json.dumps(function.arguments, ensure_ascii=False),
                    },
                }
                for id, function in calls
            ]
        found.append(plain)
    return found


def _answered(message: OllamaMessage, open_calls: list[tuple[str, str]]) -> str:
    """Returns the id of the call that a result answers, and closes the call. It is empty if there is none."""
    for place, (id, name) in enumerate(open_calls):
        if message.tool_call_id == id or (not message.tool_call_id and message.tool_name in (None, "", name)):
            del open_calls[place]
            return id
    return message.tool_call_id or message.tool_name or ""


class OllamaRequest(Strict):
    """The fields of every request that computes."""

    model: str = Field(min_length=1)
    options: OllamaOptions | None = None
    keep_alive: KeepAlive = None

    @property
    def settings(self) -> OllamaOptions:
        """The options, or those of a request that gives none."""
        return self.options or _NO_OPTIONS

    @property
    def unloads(self) -> bool:
        """True if the model is to be unloaded behind the request, which is what a request without input is for."""
        return keep_alive_s(self.keep_alive) == 0


class OllamaGenerationRequest(OllamaRequest):
    """The fields that `/api/chat` and `/api/generate` share."""

    stream: bool | None = None
    format: Format = None
    think: Think = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=MAX_ALTERNATIVES)
    template: Annotated[Any, refuse("the model's own chat template is used: leave template out", "")] = None
    truncate: bool | None = Field(None, description="A prompt that is too long is always refused.")
    shift: bool | None = Field(None, description="The context is never shifted.")
    debug_render_only: Annotated[Any, refuse("prompts are not shown: leave it out", False)] = Field(
        None, alias="_debug_render_only"
    )

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        if self.top_logprobs and not self.logprobs:
            raise crossed("top_logprobs", "top_logprobs needs logprobs: true")
        return self

    @property
    def alternatives(self) -> int | None:
        """The number of alternatives to give log probabilities for; None: no log probabilities."""
        return (self.top_logprobs or 0) if self.logprobs else None

    def grammar(self) -> Grammar | None:
        """Returns the format as a grammar, or None for any text."""
        if isinstance(self.format, dict):
            return json_format(self.format)
        return ANY_OBJECT if self.format == "json" else None


class OllamaChatRequest(OllamaGenerationRequest):
    """`POST /api/chat`. Without messages it loads the model."""

    messages: list[OllamaMessage] = Field(default_factory=list[OllamaMessage], max_length=MAX_ENTRIES)
    tools: list[OllamaTool] | None = Field(None, max_length=128)
    system: str | None = Field(None, description="Open WebUI's: a system message before the others.")

    def plain(self) -> list[dict[str, Any]]:
        """Returns the messages as `Dialogue` takes them."""
        first = [{"role": "system", "content": self.system}] if self.system else []
        return [*first, *plain_messages(self.messages)]


class OllamaGenerateRequest(OllamaGenerationRequest):
    """`POST /api/generate`. Without a prompt it loads the model."""

    prompt: str | None = None
    system: str | None = None
    raw: bool | None = Field(None, description="The prompt is continued as it stands, without chat template.")
    suffix: Annotated[Any, refuse("filling in before a suffix is not supported: leave suffix out", "")] = None
    images: Images = None
    context: Annotated[
        Any, refuse("context is deprecated and not supported: send the conversation to /api/chat", [])
    ] = None

    @model_validator(mode="after")
    def _raw_coherent(self) -> Self:
        if self.raw and (self.system or self.think is not None or self.images):
            raise crossed("raw", "raw goes with neither system, think nor images: write all into the prompt")
        return self

    def plain(self) -> list[dict[str, Any]]:
        """Returns the prompt as messages, as `Dialogue` takes them."""
        first = [{"role": "system", "content": self.system}] if self.system else []
        return [*first, {"role": "user", "content": self.prompt or ""}]


def _texts(value: Any) -> Any:
    if isinstance(value, str):
        return [value] if value else []
    return value


def _no_empty(texts: list[str]) -> list[str]:
    if "" in texts:
        raise PydanticCustomError("input", "an input of a list must not be empty")
    return texts


class OllamaEmbedRequest(OllamaRequest):
    """`POST /api/embed`. Without input it loads the model."""

    input: Annotated[
        list[str],
        BeforeValidator(_texts, json_schema_input_type=str | list[str]),
        Field(max_length=MAX_INPUTS),
        AfterValidator(_no_empty),
    ]
    dimensions: int | None = Field(None, ge=1)
    truncate: bool | None = Field(None, description="An input that is too long is always refused.")


class OllamaEmbeddingsRequest(OllamaRequest):
    """`POST /api/embeddings`, the older form of `/api/embed`, for one text. Without it, it loads the model."""

    prompt: str | None = None


class OllamaShowRequest(Strict):
    """`POST /api/show`. `name` is the older form of `model`."""

    model: str | None = None
    name: str | None = None
    verbose: bool | None = Field(None, description="There are no longer fields.")
    system: Annotated[Any, refuse("a model is shown as it is: leave system out", "")] = None
    template: Annotated[Any, refuse("a model is shown as it is: leave template out", "")] = None
    options: Annotated[Any, refuse("a model is shown as it is: leave options out", cast(Any, {}))] = None

    @model_validator(mode="after")
    def _named(self) -> Self:
        if not self.wanted:
            raise crossed("model", "model is missing")
        return self

    @property
    def wanted(self) -> str:
        """The name of the model."""
        return self.model or self.name or ""
