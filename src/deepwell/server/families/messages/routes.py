"""`POST /v1/messages` and its token count: Anthropic's API over the same dialogue."""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any, Literal

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response

from deepwell.dialogue.completion import Choice, Counts
from deepwell.dialogue.dialogue import Dialogue, Plan, Turn, count_prompt
from deepwell.dialogue.model import SamplingOptions, ServedModel
from deepwell.dialogue.parsers.events import CallArguments, CallStart, Content, Reasoning
from deepwell.dialogue.tools import FunctionTool, ToolChoice, json_format
from deepwell.errors import DeepwellError, InvalidRequest
from deepwell.server.access.principal import principal_of, tenant_of
from deepwell.server.answering import Answering
from deepwell.server.context import ServerContext
from deepwell.server.families.generation_bodies import arguments_object
from deepwell.server.families.messages.attached import as_text
from deepwell.server.families.messages.bodies import AnthropicMessage, MessagesUsage, TokenCount
from deepwell.server.families.messages.schema import (
    CountTokensRequest,
    ImageBlock,
    MessagesRequest,
    TextBlock,
    ThinkingBlock,
    ToolResultBlock,
    ToolUseBlock,
    UserBlock,
)
from deepwell.server.fitting import room_of, wish_of
from deepwell.server.grounding import planned
from deepwell.server.http.errors import anthropic_error
from deepwell.server.http.json_route import JsonRoute
from deepwell.server.http.sse import Answer, EventStream, attended

__all__ = ["router"]

_encode = msgspec.json.Encoder().encode
_NAMES = {"format": "output_config.format", "thinks": "thinking"}
StopReason = Literal["end_turn", "max_tokens", "stop_sequence", "tool_use", "refusal"]


def router(context: ServerContext) -> APIRouter:
    """Returns the routes, bound to `context`."""
    routes = APIRouter(route_class=JsonRoute)

    @routes.post("/v1/messages", summary="Answer a conversation (Anthropic)", response_model=None)
    async def messages(request: Request, body: MessagesRequest) -> Response:
        answering, adapter = await context.generator(body.model, tenant_of(request))
        model = answering.model
        caller = principal_of(request).caller
        wish = wish_of(request, body.max_tokens)

        async def prepared() -> Plan:
            told, parts = await as_text(context, model, body, tenant_of(request))
            own = replace(wish, parts=parts)
            return await planned(
                context, answering, adapter, principal_of(request), _dialogue(model, told), own
            )

        plan = await attended(prepared(), request.scope, request.receive, context.stopped)
        limit = room_of(model, plan, body.max_tokens, "messages")
        options = SamplingOptions(temperature=body.temperature, top_p=body.top_p, top_k=body.top_k)
        params = replace(model.sampling(options, limit, logprobs=None), grammar=plan.grammar)
        id = f"msg_{uuid.uuid4().hex}"
        choices = plan.choices(id, params, stops=body.stop_sequences or (), caller=caller, adapter=adapter)
        message = AnthropicMessage(id, body.model, [], MessagesUsage(len(plan.prompt), 0, 0))
        shows = body.thinking is None or body.thinking.display != "omitted"
        answer = _MessageAnswer(answering, plan, choices, message, shows_thinking=shows)
        if body.stream:
            return EventStream(answer.events(), context.stopped, end=b"", failed=_failed)
        return Answer(answer.whole(), context.stopped)

    @routes.post(
        "/v1/messages/count_tokens", summary="Count a conversation's tokens (Anthropic)", response_model=None
    )
    async def count_tokens(request: Request, body: CountTokensRequest) -> Response:
        answering, _ = await context.generator(body.model, tenant_of(request))
        reading = as_text(context, answering.model, body, tenant_of(request))
        body, _ = await attended(reading, request.scope, request.receive, context.stopped)
        dialogue = _dialogue(answering.model, body)
        tokens = await count_prompt(answering.model, dialogue, principal_of(request).caller)
        return Response(_encode(TokenCount(tokens)), media_type="application/json")

    return routes


def _dialogue(model: ServedModel, body: CountTokensRequest) -> Dialogue:
    """Returns the dialogue that a Messages request asks for.

    Raises:
        InvalidRequest: the last message begins the answer, or `tool_choice` lacks its name, or has one without need.
    """
    if body.messages[-1].role == "assistant":
        raise InvalidRequest(
            "the last message is the assistant's: an answer cannot be begun for the model",
            fix="end with a user message, and say in it how to begin",
            param="messages",
        )
    chat: list[dict[str, Any]] = []
    if body.system:
        chat.append({"role": "system", "content": "\n".join(block.text for block in body.system)})
    for message in body.messages:
        chat += _user(message.content) if message.role == "user" else [_assistant(message.content)]
    tools = tuple(
        FunctionTool(tool.name, tool.description or "", tool.input_schema, bool(tool.strict))
        for tool in body.tools or ()
    )
    format = body.output_config.format if body.output_config else None
    return Dialogue(
        messages=chat,
        tools=tools,
        tool_choice=_choice(body),
        parallel_tool_calls=not (body.tool_choice and body.tool_choice.disable_parallel_tool_use),
        format=json_format(format.schema_) if format else None,
        thinks=_thinks(model, body),
        params=_NAMES,
    )


def _thinks(model: ServedModel, body: CountTokensRequest) -> bool | None:
    """Returns whether the model is to reason; "adaptive" asks for it where the template has a switch."""
    if body.thinking is None:
        return None
    if body.thinking.type == "disabled":
        return False
    return True if model.codec.dialect.switch else None


def _choice(body: CountTokensRequest) -> ToolChoice:
    choice = body.tool_choice
    if choice is None:
        return "auto"
    if (choice.type == "tool") != (choice.name is not None):
        raise InvalidRequest(
            "tool_choice needs a name with type 'tool', and with no other",
            fix="send both",
            param="tool_choice",
        )
    match choice.type:
        case "any":
            return "required"
        case "tool":
            assert choice.name is not None
            return (choice.name,)
        case "auto" | "none":
            return choice.type


def _user(blocks: Sequence[UserBlock]) -> list[dict[str, Any]]:
    """Returns chat messages: one for each tool result, and one for the text between them."""
    messages: list[dict[str, Any]] = []
    for block in blocks:
        if isinstance(block, ToolResultBlock):
            text = "".join(part.text for part in block.content)
            if block.is_error:
                text = f"Error: {text}"
            messages.append({"role": "tool", "tool_call_id": block.tool_use_id, "content": text})
        elif isinstance(block, ImageBlock):
            raise InvalidRequest.of("attachment_elsewhere", param="messages")
        elif messages and messages[-1]["role"] == "user":
            messages[-1]["content"] += block.text
        else:
            messages.append({"role": "user", "content": block.text})
    return messages or [{"role": "user", "content": ""}]


def _assistant(blocks: Sequence[TextBlock | ToolUseBlock | ThinkingBlock]) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": None}
    texts = [block.text for block in blocks if isinstance(block, TextBlock)]
    thoughts = [block.thinking for block in blocks if isinstance(block, ThinkingBlock)]
    calls = [
        {
            "id": block.id,
            "type": "function",
            "function": {"name": block.name, "arguments": json.dumps(block.input, ensure_ascii=False)},
        }
        for block in blocks
        if isinstance(block, ToolUseBlock)
    ]
    if texts or not calls:
        message["content"] = "".join(texts)
    if thoughts:
        message["reasoning_content"] = "".join(thoughts)
    if calls:
        message["tool_calls"] = calls
    return message


class _MessageAnswer:
    """One answer, as events or as a whole, which is what the events say together.

    Args:
        message: the body of the answer, still empty.
        shows_thinking: whether blocks of thinking carry their text. Without it they are empty.
    """

    def __init__(
        self,
        answering: Answering,
        plan: Plan,
        choices: Sequence[Choice],
        message: AnthropicMessage,
        *,
        shows_thinking: bool,
    ) -> None:
        self._answering = answering
        self._plan = plan
        self._choices = choices
        self._blocks: list[dict[str, Any]] = []
        self._pieces: list[str] = []  # texts of the open block
        self._message = message
        self._shows_thinking = shows_thinking

    async def whole(self) -> bytes:
        async for _ in self._steps():
            pass
        self._message.content = self._blocks
        return _encode(self._message)

    async def events(self) -> AsyncGenerator[bytes, None]:
        async for step in self._steps():
            yield b"event: " + step["type"].encode() + b"\ndata: " + _encode(step) + b"\n\n"

    async def _steps(self) -> AsyncGenerator[dict[str, Any], None]:
        message, last = self._message, None
        async with aclosing(self._answering.converse(self._plan, self._choices)) as turns:
            async for turn in turns:
                message.usage = _usage(turn.counts)
                if last is None:  # the first step knows what the cache served
                    yield {"type": "message_start", "message": msgspec.structs.replace(message)}
                last = turn
                for step in self._take(turn):
                    yield step
        for step in self._close():
            yield step
        assert last is not None
        message.stop_reason, message.stop_sequence = _reason(last), last.stop
        delta = {"stop_reason": message.stop_reason, "stop_sequence": message.stop_sequence}
        yield {"type": "message_delta", "delta": delta, "usage": message.usage}
        yield {"type": "message_stop"}

    def _take(self, turn: Turn) -> list[dict[str, Any]]:
        steps: list[dict[str, Any]] = []
        for event in turn.events:
            match event:
                case Content(text):
                    if self._kind != "text":
                        steps += self._open({"type": "text", "text": ""})
                    steps.append(self._delta({"type": "text_delta", "text": text}, text))
                case Reasoning(text):
                    if self._kind != "thinking":
                        steps += self._open({"type": "thinking", "thinking": "", "signature": ""})
                    if self._shows_thinking:
                        steps.append(self._delta({"type": "thinking_delta", "thinking": text}, text))
                case CallStart(_, name):
                    id = f"toolu_{uuid.uuid4().hex[:24]}"
                    steps += self._open({"type": "tool_use", "id": id, "name": name, "input": {}})
                case CallArguments(_, text):
                    steps.append(self._delta({"type": "input_json_delta", "partial_json": text}, text))
        return steps

    @property
    def _kind(self) -> str:
        return self._blocks[-1]["type"] if self._blocks else ""

    def _open(self, block: dict[str, Any]) -> list[dict[str, Any]]:
        steps = self._close()
        self._blocks.append(block)
        self._pieces = []
        start = {"type": "content_block_start", "index": len(self._blocks) - 1, "content_block": dict(block)}
        return [*steps, start]

    def _delta(self, delta: dict[str, str], text: str) -> dict[str, Any]:
        self._pieces.append(text)
        return {"type": "content_block_delta", "index": len(self._blocks) - 1, "delta": delta}

    def _close(self) -> list[dict[str, Any]]:
        if not self._blocks:
            return []
        block, text = self._blocks[-1], "".join(self._pieces)
        if block["type"] == "tool_use":
            block["input"] = arguments_object(text)
        else:
            block[block["type"]] = text
        return [{"type": "content_block_stop", "index": len(self._blocks) - 1}]


def _usage(counts: Counts) -> MessagesUsage:
    return MessagesUsage(counts.prompt - counts.cached, counts.completion, counts.cached)


def _reason(turn: Turn) -> StopReason:
    match turn.finish_reason:
        case "tool_calls":
            return "tool_use"
        case "length":
            return "max_tokens"
        case "content_filter":
            return "refusal"
        case _:
            return "stop_sequence" if turn.stop is not None else "end_turn"


def _failed(error: DeepwellError) -> bytes:
    return b"event: error\ndata: " + anthropic_error(str(error), error.status) + b"\n\n"
