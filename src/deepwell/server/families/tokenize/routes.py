"""`POST /tokenize` and `/detokenize`: a served model's tokens of a text, and the text of tokens."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from deepwell.dialogue.dialogue import Dialogue, encode_dialogue
from deepwell.dialogue.model import PromptTooLong, ServedModel
from deepwell.errors import InvalidRequest
from deepwell.server.access.principal import tenant_of
from deepwell.server.context import ServerContext
from deepwell.server.families.tokenize.bodies import Detokenized, Tokenized
from deepwell.server.families.tokenize.schema import MAX_TOKENS, DetokenizeRequest, TokenizeRequest
from deepwell.server.http.json_route import JsonRoute, json_response

__all__ = ["router"]


def router(context: ServerContext) -> APIRouter:
    """Returns the routes, bound to `context`."""
    routes = APIRouter(route_class=JsonRoute)

    async def served(request: Request, name: str | None) -> ServedModel:
        answering, _ = await context.find(name or context.main.model.name, tenant_of(request))
        return answering.model

    @routes.post("/tokenize", summary="Tokenize a text or a conversation", response_model=None)
    async def tokenize(request: Request, body: TokenizeRequest) -> Response:
        model = await served(request, body.model)
        tokens = await _tokens(model, body)
        spelt = await model.spellings(tokens) if body.return_token_strs else None
        return json_response(Tokenized(len(tokens), model.capabilities.max_model_len, tokens, spelt))

    @routes.post("/detokenize", summary="Turn tokens into text", response_model=None)
    async def detokenize(request: Request, body: DetokenizeRequest) -> Response:
        model = await served(request, body.model)
        size = model.codec.vocab_size
        if (largest := max(body.tokens, default=0)) >= size:
            raise InvalidRequest(
                f"tokens holds token {largest}",
                fix=f"the vocabulary has tokens 0 to {size - 1}",
                param="tokens",
            )
        return json_response(Detokenized(await model.detokenize(body.tokens)))

    return routes


async def _tokens(model: ServedModel, body: TokenizeRequest) -> list[int]:
    """Returns the tokens that a request asks for, even where the context cannot hold them.

    Raises:
        InvalidRequest: there are more than an answer may have.
    """
    most = max(MAX_TOKENS, model.capabilities.max_model_len)
    count, exact = 0, True
    try:
        if body.messages is not None:
            tokens = await encode_dialogue(model, _dialogue(body), most)
        else:
            assert body.prompt is not None
            tokens = await model.tokenize(body.prompt, most)
            if body.add_special_tokens is False:
                tokens = model.codec.unframed(tokens)
        if len(tokens) <= most:
            return tokens
        count = len(tokens)
    except PromptTooLong as error:
        count, exact = error.tokens, error.exact
    param = "prompt" if body.messages is None else "messages"
    raise InvalidRequest(
        f"the {param} has {'' if exact else 'at least '}{count} tokens, and an answer may have {most}",
        fix="split it",
        param=param,
    )


def _dialogue(body: TokenizeRequest) -> Dialogue:
    assert body.messages is not None
    return Dialogue(
        messages=[message.plain() for message in body.messages],
        tools=tuple(spec.tool() for spec in body.tools or ()),
        variables=body.chat_template_kwargs or {},
        begins_answer=body.add_generation_prompt is not False,
    )
