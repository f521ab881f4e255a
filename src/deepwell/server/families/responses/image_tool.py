"""The tool `image_generation`: the model calls it like a function, and the server draws.

Small models call tools too rarely and describe pictures poorly. The words of the user are therefore drawn as they are, and
the model is not asked, where the request forces the tool, or offers it alone and the router is sure that the last user turn
asks for a picture and nothing else. In all other cases the model decides. A call whose arguments have no prompt draws the
words of the user too.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, replace

from deepwell.dialogue.completion import Counts
from deepwell.dialogue.dialogue import Dialogue, Turn
from deepwell.dialogue.parsers.events import CallArguments, CallStart, Content, Event
from deepwell.dialogue.tools import FunctionTool
from deepwell.errors import DeepwellError, InvalidRequest
from deepwell.messages import Language, render
from deepwell.server.attachments.wording import own_words, transcripts_in
from deepwell.server.context import ServerContext
from deepwell.server.families.generation_bodies import arguments_object
from deepwell.server.families.responses.bodies import ImageCallError
from deepwell.server.families.responses.citing import OutputPart
from deepwell.server.families.responses.image_parts import ImageBegun, ImageEnded, ImageShown
from deepwell.server.families.responses.image_schema import ImageChoice, ImageSpec
from deepwell.server.families.responses.item_schema import MessageInput
from deepwell.server.families.responses.mcp.schema import McpChoice
from deepwell.server.families.responses.schema import InputTokensRequest, ResponseRequest
from deepwell.server.families.responses.tool_schema import AllowedTools, FileSearchChoice, NamedTool
from deepwell.server.guarding.requests import language_of
from deepwell.server.routing.answer import Production, production_of, said_of
from deepwell.server.routing.attachments import attached_kinds
from deepwell.server.routing.choice import asks_for_picture, routed
from deepwell.server.routing.pictures import Picture, PictureWish, pictures
from deepwell.server.routing.wording import subject_of

__all__ = ["IMAGE_TOOL", "ImageAsked", "image_asked", "image_offered", "with_images"]

IMAGE_TOOL = FunctionTool(
    "image_generation",
    "Draws one picture and shows it to the user. Call it if the user asks for a picture.",
    {
        "type": "object",
        "properties": {"prompt": {"type": "string", "description": "What the picture shows."}},
        "required": ["prompt"],
        "additionalProperties": False,
    },
    True,
)
_MOST_PICTURES = 4  # of one answer


@dataclass(frozen=True, slots=True)
class ImageAsked:
    """Pictures as a request may get them.

    Attributes:
        said: the last user turn, as the guard let it pass.
        direct: whether it is drawn without asking the model.
        language: language of what the user is told.
        production: what the answer is made of, if the server chooses that.
    """

    wish: PictureWish
    tenant: str
    said: str
    direct: bool
    language: Language
    production: Production | None = None


def image_offered(body: ResponseRequest | InputTokensRequest) -> ImageSpec | None:
    """Returns the tool that the request offers, if its `tool_choice` allows it."""
    spec = next((tool for tool in body.tools or () if isinstance(tool, ImageSpec)), None)
    match body.tool_choice:
        case "none" | NamedTool() | FileSearchChoice() | McpChoice():
            return None
        case AllowedTools(tools=some) if not any(isinstance(one, ImageChoice) for one in some):
            return None
        case _:
            return spec


async def image_asked(
    context: ServerContext, body: ResponseRequest, dialogue: Dialogue, tenant: str, *, auto: bool
) -> ImageAsked | None:
    """Returns the pictures that a request may get; None if it offers no tool for them.

    Args:
        auto: whether the server chooses what answers.
    """
    spec = image_offered(body)
    if spec is None and not auto:
        return None
    spec = spec or ImageSpec.model_validate({"type": "image_generation"})
    said = next(
        (str(one.get("content") or "") for one in reversed(dialogue.messages) if one["role"] == "user"), ""
    )
    production, direct = None, False
    if auto:
        last = next((one for one in reversed(body.input) if isinstance(one, MessageInput)), None)
        recordings: list[str] = []
        if attached_kinds(last):
            said, recordings = own_words(said), transcripts_in(said)
        choice = await routed(context, said, attached_kinds(last))
        production = await production_of(context, tenant, choice, said, wish=None, recordings=recordings)
        if body.tools:  # they are there to be called
            production = replace(production, asks_model=True)
    elif said.strip():
        direct = _forces(body) or (_alone(body) and await _is_picture(said))
    compression = 100 if spec.output_compression is None else spec.output_compression
    wish = PictureWish(
        spec.model,
        spec.size or "auto",
        spec.quality or "auto",
        spec.format,
        compression,
        (spec.partial_images or 0) if body.stream else 0,
    )
    return ImageAsked(wish, tenant, said, direct, language_of(said), production)


async def with_images(
    context: ServerContext, asked: ImageAsked, parts: AsyncGenerator[OutputPart, None]
) -> AsyncGenerator[OutputPart, None]:
    """Yields the parts of an answer with the pictures that it calls for in place of the calls.

    What keeps a picture from being drawn becomes part of the answer: the call has failed, and a text says why.
    """
    if asked.production is not None:
        async with aclosing(_produced(context, asked, asked.production, parts)) as chosen:
            async for part in chosen:
                yield part
        return
    if asked.direct:
        tokens = 0
        async for part in _drawn(context, asked, subject_of(asked.said)):
            tokens = part if isinstance(part, int) else tokens
            if not isinstance(part, int):
                yield part
        yield Turn(0, (), finish_reason="stop", counts=Counts(prompt=tokens))
        return
    async with aclosing(_with_calls(context, asked, parts)) as called:
        async for part in called:
            yield part


async def _produced(
    context: ServerContext, asked: ImageAsked, made: Production, parts: AsyncGenerator[OutputPart, None]
) -> AsyncGenerator[OutputPart, None]:
    """Yields the parts of an answer that the server has chosen: remarks, the picture, and the text."""
    remarks = list(made.remarks)
    if made.prompt:
        async for part in _drawn(context, asked, made.prompt):
            if not isinstance(part, int):
                yield part
            if isinstance(part, ImageEnded) and part.error is None:
                remarks.insert(0, render("auto_picture", made.language, {"prompt": part.prompt})[0])
    text = "\n\n".join(filter(None, (*remarks, made.words)))
    if text:
        yield Turn(0, (Content(f"{text}\n\n" if made.asks_model else text),))
    if not made.asks_model:
        yield Turn(0, (), finish_reason="stop")
        return
    async with aclosing(_with_calls(context, asked, parts)) as called:
        async for part in called:
            yield part


async def _with_calls(
    context: ServerContext, asked: ImageAsked, parts: AsyncGenerator[OutputPart, None]
) -> AsyncGenerator[OutputPart, None]:
    """Yields the parts of the model's answer with pictures in place of the calls for them."""
    calls: dict[int, str] = {}  # arguments of the calls that are not over, by their number
    count = 0
    async with aclosing(parts):
        async for part in parts:
            if not isinstance(part, Turn) or not (calls or any(map(_is_call, part.events))):
                yield part
                continue
            for event in part.events:
                if isinstance(event, CallStart) and _is_call(event):
                    async for one in _called(context, asked, calls, count):
                        yield one
                    count, calls = count + 1, {event.index: ""}
                elif isinstance(event, CallArguments) and event.index in calls:
                    calls[event.index] += event.text
                else:
                    async for one in _called(context, asked, calls, count):
                        yield one
                    calls = {}
                    yield replace(part, events=(event,), entries=(), finish_reason=None)
            if part.finish_reason is not None:
                async for one in _called(context, asked, calls, count):
                    yield one
                calls = {}
            yield replace(part, events=())


def _is_call(event: Event) -> bool:
    return isinstance(event, CallStart) and event.name == IMAGE_TOOL.name


async def _called(
    context: ServerContext, asked: ImageAsked, calls: dict[int, str], count: int
) -> AsyncGenerator[OutputPart, None]:
    """Yields the picture of a call that is over, if there is one."""
    for arguments in calls.values():
        given = arguments_object(arguments).get("prompt")
        prompt = given.strip() if isinstance(given, str) else ""
        async for part in _drawn(context, asked, prompt or subject_of(asked.said), count):
            if not isinstance(part, int):
                yield part


async def _drawn(
    context: ServerContext, asked: ImageAsked, prompt: str, count: int = 1
) -> AsyncGenerator[OutputPart | int, None]:
    """Yields the parts of one picture, and the number of its prompt's tokens."""
    wish = asked.wish
    quality = "medium" if wish.quality == "auto" else wish.quality
    size = "512x512" if wish.size == "auto" else wish.size
    yield ImageBegun(prompt, size, quality, wish.format)
    try:
        if count > _MOST_PICTURES:
            raise InvalidRequest.of("image_calls_many", most=_MOST_PICTURES)
        drawn: Picture | None = None
        async with aclosing(pictures(context, asked.tenant, prompt, wish)) as steps:
            async for drawn in steps:
                if not drawn.finished:
                    yield ImageShown(drawn.data, drawn.number)
        assert drawn is not None
        if asked.production is not None:
            asked.production.models["image"] = drawn.model
        yield ImageEnded(drawn.prompt, drawn.data)
        yield drawn.tokens
    except DeepwellError as error:
        yield ImageEnded(prompt, error=ImageCallError(error.type, str(error), error.code, error.param))
        yield Turn(0, (Content(said_of(error, asked.language)),))


def _forces(body: ResponseRequest) -> bool:
    """Returns whether the request leaves nothing but a picture."""
    match body.tool_choice:
        case ImageChoice():
            return True
        case AllowedTools(mode="required", tools=some):
            return all(isinstance(one, ImageChoice) for one in some)
        case "required":
            return _alone(body)
        case _:
            return False


def _alone(body: ResponseRequest) -> bool:
    return all(isinstance(tool, ImageSpec) for tool in body.tools or ())


async def _is_picture(said: str) -> bool:
    return await asyncio.to_thread(asks_for_picture, said)
