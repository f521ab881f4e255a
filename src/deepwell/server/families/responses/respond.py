"""The steps of a Responses request: from history and input to a plan, then to a growing response, then to the store."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from deepwell.dialogue.completion import Caller, Choice
from deepwell.dialogue.dialogue import Dialogue, Plan, plan_dialogue
from deepwell.dialogue.model import SamplingOptions, ServedModel
from deepwell.dialogue.tools import ANY_OBJECT, FunctionTool, ToolChoice, allowed, json_format
from deepwell.engine.protocol import Grammar
from deepwell.errors import DeepwellError, InvalidRequest
from deepwell.server.access.principal import Principal
from deepwell.server.answering import Answering
from deepwell.server.context import ServerContext
from deepwell.server.families.prompts.opening import Opening, read_values
from deepwell.server.families.reasoning import reasoning_of
from deepwell.server.families.responses.attached import as_text
from deepwell.server.families.responses.bodies import ConversationRef, Item, Response
from deepwell.server.families.responses.builder import ResponseBuilder, ResponseEvent
from deepwell.server.families.responses.citing import OutputPart
from deepwell.server.families.responses.file_search import Searched, searched, searches
from deepwell.server.families.responses.history import before, referenced
from deepwell.server.families.responses.image_schema import ImageChoice, ImageSpec
from deepwell.server.families.responses.image_tool import (
    IMAGE_TOOL,
    ImageAsked,
    image_asked,
    image_offered,
)
from deepwell.server.families.responses.items import encode_item, messages_of, to_items
from deepwell.server.families.responses.mcp.asking import McpWish, mcp_asked
from deepwell.server.families.responses.mcp.offers import shown_spec
from deepwell.server.families.responses.mcp.schema import McpChoice, McpSpec
from deepwell.server.families.responses.schema import (
    ENCRYPTED,
    LOGPROBS,
    InputTokensRequest,
    ResponseRequest,
    TextFormat,
)
from deepwell.server.families.responses.tool_schema import (
    AllowedTools,
    FileSearchChoice,
    FileSearchSpec,
    NamedTool,
    ToolSpec,
)
from deepwell.server.fitting import NO_WISH, FitWish, room_of
from deepwell.server.grounding import planned
from deepwell.server.state import State
from deepwell.storage.clock import shared_time
from deepwell.storage.conversations import Item as StoredItem
from deepwell.storage.database import Tenant
from deepwell.storage.responses import StoredResponse

__all__ = [
    "Keep",
    "Prompted",
    "builder_of",
    "choices_of",
    "dialogue_of",
    "events_until_stored",
    "is_prose",
    "new_response",
    "prompted",
    "store",
    "stored_of",
]

Keep = Callable[[ResponseEvent], Awaitable[None]]
_encode = msgspec.json.Encoder().encode
_NAMES = {"messages": "input", "format": "text.format", "thinks": "reasoning.effort"}


@dataclass(frozen=True, slots=True)
class Prompted:
    """A request's own items, the plan of the whole dialogue, the search that was made for it, and the pictures it may get.

    `refused` tells that the plan is that of a refusal, because the guard blocked the request.
    """

    own: list[Item]
    plan: Plan
    search: Searched | None = None
    refused: bool = False
    image: ImageAsked | None = None
    mcp: McpWish | None = None
    dialogue: Dialogue | None = None  # with tools of MCP servers
    wish: FitWish = NO_WISH


async def prompted(
    context: ServerContext,
    answering: Answering,
    adapter: str,
    principal: Principal,
    body: ResponseRequest,
    response_id: str,
    wish: FitWish = NO_WISH,
    *,
    auto: bool = False,
    opening: Opening | None = None,
) -> Prompted:
    """Reads the history of the principal's tenant, searches if the request asks for it, and renders the dialogue.

    `auto` tells that the server chooses what answers. `opening` is the stored prompt that the request names.

    Raises as `dialogue_of`, `searched` and `planned`.
    """
    model = answering.model
    body, parts = await as_text(context, model, body, principal.tenant)
    wish = replace(wish, parts=parts)
    guard, checked, filled = answering.guard, None, None
    if guard is not None and opening is not None:
        opening, filled = await read_values(opening, guard, principal.tenant, body.instructions)
    before, own, dialogue = await dialogue_of(
        model, context.state, principal.tenant, body, response_id, opening
    )
    guarded = None if guard is None else (guard, principal.tenant)
    mcp, dialogue = await mcp_asked(context, body, (before, own), dialogue, guarded)
    if guard is not None:
        dialogue, checked = await guard.read(dialogue, principal.tenant, filled)
    search, short, ledger = None, dialogue, None
    refused = checked is not None and checked.blocked
    image = None if refused else await image_asked(context, body, dialogue, principal.tenant, auto=auto)
    if image is not None and image.direct:
        dialogue = replace(dialogue, tools=(), tool_choice="auto")
    elif not refused and searches(body):
        short, ledger = await context.fitting.shortened(model, principal, dialogue, wish)
        search = await searched(context, answering, adapter, principal, body, short, checked)
    if search is None:
        if image is not None and image.production is not None:
            dialogue = image.production.asked(dialogue)
        plan = await planned(context, answering, adapter, principal, dialogue, wish, before=filled)
        mcp = None if refused or (image is not None and image.direct) else mcp
        return Prompted(own, plan, None, refused, image, mcp, dialogue, wish)
    plan = await plan_dialogue(model, search.dialogue, principal.caller)
    if guard is not None and checked is not None:
        plan = guard.sealed(plan, checked)
    # An answer to a similar prompt may not be given again: it would rest on other passages.
    plan = replace(plan, question=None)
    assert ledger is not None
    asks = search.asks_model(prose=is_prose(body))
    read = (search.dialogue.messages, plan.prompt) if asks else None
    ledger = await context.fitting.searched(model, short, ledger, read)
    context.fitting.note(ledger)
    return Prompted(own, replace(plan, ledger=ledger), search, image=image)


def is_prose(body: ResponseRequest) -> bool:
    """Returns whether the answer is plain text, and bound by no format."""
    return _format(body.text.format if body.text else None) is None


async def dialogue_of(
    model: ServedModel,
    state: State,
    tenant: Tenant,
    body: ResponseRequest | InputTokensRequest,
    response_id: str | None = None,
    opening: Opening | None = None,
) -> tuple[list[Item], list[Item], Dialogue]:
    """Reads the history, and returns its items, the request's own and the whole dialogue.

    `response_id` is the response that will keep the request's items. The messages of `opening` come before all others.

    Raises:
        NotFound: the conversation, or an item that the request refers to, does not exist.
        InvalidRequest: the request cannot be met; `param` names the parameter that asks for it.
    """
    history = await before(
        state,
        tenant,
        conversation=body.conversation.id if body.conversation else None,
        previous_id=body.previous_response_id,
        own=body.input,
    )
    own = to_items(body.input, await referenced(state, tenant, body.input, history), response_id)
    messages = messages_of([*history, *own], body.instructions if opening is None else opening.items)
    if not messages:
        raise InvalidRequest("there is nothing to answer", fix="send input", param="input")
    effort = body.reasoning.effort if body.reasoning else None
    thinks, variables = reasoning_of(model, effort, "reasoning.effort")
    tools, choice = _offered(body)
    dialogue = Dialogue(
        messages=messages,
        tools=tools,
        tool_choice=choice,
        parallel_tool_calls=body.parallel_tool_calls is not False,
        format=_format(body.text.format if body.text else None),
        thinks=thinks,
        variables=variables,
        params=_NAMES,
    )
    return history, own, dialogue


def tools_of(body: ResponseRequest | InputTokensRequest) -> tuple[FunctionTool, ...]:
    """Returns the functions that the model may call: those that the request declares, and the one that draws."""
    tools = tuple(
        FunctionTool(tool.name, tool.description or "", tool.parameters or {}, tool.strict is not False)
        for tool in body.tools or ()
        if isinstance(tool, ToolSpec)
    )
    return tools if image_offered(body) is None else (*tools, IMAGE_TOOL)


def _offered(
    body: ResponseRequest | InputTokensRequest,
) -> tuple[tuple[FunctionTool, ...], ToolChoice]:
    """Returns the functions to offer, and which of them must be called. A search meets the demand for a call."""
    tools, choice = tools_of(body), body.tool_choice
    searches = any(isinstance(tool, FileSearchSpec) for tool in body.tools or ())
    match choice:
        case NamedTool(name=name):
            return tools, (name,)
        case AllowedTools(mode=mode, tools=some):
            functions = [tool.name for tool in some if isinstance(tool, NamedTool)]
            if any(isinstance(tool, ImageChoice) for tool in some):
                _check_offered("image_generation", offered=image_offered(body) is not None)
                functions.append(IMAGE_TOOL.name)
            if any(isinstance(tool, FileSearchChoice) for tool in some):
                _check_offered("file_search", offered=searches)
                return allowed(tools, functions, "auto")
            return allowed(tools, functions, mode)
        case FileSearchChoice():
            _check_offered("file_search", offered=searches)
            return tools, "auto"
        case ImageChoice():
            _check_offered("image_generation", offered=image_offered(body) is not None)
            return tools, (IMAGE_TOOL.name,)
        case McpChoice():
            return tools, "auto"
        case "required" if searches:
            return tools, "auto"
        case _:
            return tools, choice or "auto"


def _check_offered(kind: str, *, offered: bool) -> None:
    if not offered:
        fix = "send it in tools" + (", with its vector_store_ids" if kind == "file_search" else "")
        raise InvalidRequest(
            f"tool_choice asks for {kind}, which is not among the tools", fix=fix, param="tool_choice"
        )


def _format(format: TextFormat | None) -> Grammar | None:
    if format is None or format.type == "text":
        return None
    return ANY_OBJECT if format.schema_ is None else json_format(format.schema_)


def new_response(
    model: ServedModel, body: ResponseRequest, id: str, opening: Opening | None = None
) -> Response:
    """Returns the response object as it is before anything has been said."""
    defaults = model.defaults
    choice = body.tool_choice
    format = body.text.format if body.text else None
    return Response(
        id=id,
        created_at=int(shared_time()),
        status="queued" if body.background else "in_progress",
        model=body.model,
        output=[],
        background=bool(body.background),
        parallel_tool_calls=body.parallel_tool_calls is not False,
        tool_choice="auto" if choice is None else choice if isinstance(choice, str) else choice.model_dump(),
        tools=[_shown(tool) for tool in body.tools or ()],
        text={"format": format.model_dump(by_alias=True, exclude_none=True) if format else {"type": "text"}},
        temperature=defaults.temperature if body.temperature is None else body.temperature,
        top_p=defaults.top_p if body.top_p is None else body.top_p,
        top_logprobs=body.top_logprobs or 0,
        metadata=dict(body.metadata or {}),
        store=body.store is not False,
        instructions=body.instructions if opening is None else opening.items,
        prompt=None if opening is None else opening.used,
        max_output_tokens=body.max_output_tokens,
        previous_response_id=body.previous_response_id,
        conversation=ConversationRef(body.conversation.id) if body.conversation else None,
        reasoning={"effort": body.reasoning.effort if body.reasoning else None, "summary": None},
        user=body.user,
        safety_identifier=body.safety_identifier,
        prompt_cache_key=body.prompt_cache_key,
        truncation=body.truncation or "disabled",
    )


def _shown(tool: ToolSpec | FileSearchSpec | ImageSpec | McpSpec) -> dict[str, Any]:
    """Returns a tool as a response shows it."""
    if isinstance(tool, McpSpec):
        return shown_spec(tool)
    if not isinstance(tool, ToolSpec):
        return tool.model_dump(exclude_none=True)
    return {
        "type": "function",
        "name": tool.name,
        "description": tool.description,
        "parameters": tool.parameters,
        "strict": tool.strict is not False,
    }


def choices_of(
    model: ServedModel, body: ResponseRequest, plan: Plan, id: str, caller: Caller, adapter: str
) -> list[Choice]:
    """Returns the one choice of a response.

    Raises:
        ContextLengthExceeded: prompt and answer do not fit.
    """
    limit = room_of(model, plan, body.max_output_tokens, "input")
    options = SamplingOptions(
        temperature=body.temperature,
        top_p=body.top_p,
        top_k=body.top_k,
        min_p=body.min_p,
        repetition_penalty=body.repetition_penalty,
        seed=body.seed,
    )
    logprobs = (body.top_logprobs or 0) if _wants_logprobs(body) else None
    params = replace(model.sampling(options, limit, logprobs=logprobs), grammar=plan.grammar)
    return plan.choices(id, params, caller=caller, adapter=adapter)


def _wants_logprobs(body: ResponseRequest) -> bool:
    return LOGPROBS in (body.include or ())


def builder_of(model: ServedModel, body: ResponseRequest, response: Response, plan: Plan) -> ResponseBuilder:
    """Returns the state machine of a new response."""
    return ResponseBuilder(
        response,
        model.codec,
        with_logprobs=_wants_logprobs(body),
        with_encrypted=ENCRYPTED in (body.include or ()),
        ledger=plan.ledger,
    )


async def events_until_stored(
    parts: AsyncGenerator[OutputPart, None], builder: ResponseBuilder, keep: Keep
) -> AsyncGenerator[ResponseEvent, None]:
    """Yields every event of a response. It is stored before the last event, so that a reader of that event finds it stored."""
    for event in builder.begin():
        yield event
    try:
        async with aclosing(parts):
            async for part in parts:
                for event in builder.take(part):
                    yield event
        *events, last = builder.end()
        for event in events:
            yield event
        await keep(last)
    except DeepwellError as error:
        *events, last = builder.fail(error)
        for event in events:
            yield event
        await keep(last)
    yield last


def stored_of(
    builder: ResponseBuilder, own: Sequence[Item], events: Sequence[bytes] | None = None
) -> StoredResponse:
    """Returns the response as a row; `events` are those of a background response, as they were sent."""
    response = builder.response
    return StoredResponse(
        id=response.id,
        created_at=response.created_at,
        status=response.status,
        input=_encode(own).decode(),
        body=_encode(response).decode(),
        previous_id=response.previous_response_id,
        events=None if events is None else _encode([event.decode() for event in events]).decode(),
    )


async def store(state: State, tenant: Tenant, builder: ResponseBuilder, own: Sequence[Item]) -> None:
    """Stores a finished foreground response if it is to be kept, and adds the items of any to its conversation."""
    response = builder.response
    if response.conversation is not None and response.status in ("completed", "incomplete"):
        said = [StoredItem(item.id, encode_item(item).decode()) for item in (*own, *response.output)]
        await state.conversations.append(tenant, response.conversation.id, said)
    if response.store and not response.background:
        await state.responses.put(tenant, stored_of(builder, own))
