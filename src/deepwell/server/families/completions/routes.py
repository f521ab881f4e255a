"""`POST /v1/completions`: plain continuation, with the prompt's own log probabilities under `echo`."""

from __future__ import annotations

import codecs
import uuid
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response

from deepwell.dialogue.completion import Choice, Counts, Update, engine_request
from deepwell.dialogue.text import Codec, Entry
from deepwell.engine.protocol import TokenLogprob
from deepwell.server.access.principal import principal_of, tenant_of
from deepwell.server.access.ticket import offer
from deepwell.server.answering import Answering
from deepwell.server.context import ServerContext
from deepwell.server.families.completions.bodies import Completion, CompletionChoice, CompletionLogprobs
from deepwell.server.families.completions.schema import CompletionRequest
from deepwell.server.families.generation_bodies import Usage, usage
from deepwell.server.guarding.checked import Checked
from deepwell.server.http.json_route import JsonRoute
from deepwell.server.http.sse import Answer, EventStream, event
from deepwell.storage.clock import shared_time

__all__ = ["router"]

_DEFAULT_MAX_TOKENS = 16  # OpenAI's
_encode = msgspec.json.Encoder().encode


def router(context: ServerContext) -> APIRouter:
    """Returns the route, bound to `context`."""
    routes = APIRouter(route_class=JsonRoute)

    @routes.post("/v1/completions", summary="Continue a text", response_model=None)
    async def completions(request: Request, body: CompletionRequest) -> Response:
        answering, adapter = await context.generator(body.model, tenant_of(request))
        model = answering.model
        prompts = await model.encode_prompts(body.prompt, "prompt")
        checked = None
        if answering.guard is not None:
            prompts, checked = await answering.guard.read_prompts(model, prompts, tenant_of(request))
        grammar = body.structured_outputs.compiled() if body.structured_outputs else None
        caller = principal_of(request).caller
        if grammar is not None:
            await model.prepare(grammar, caller, "structured_outputs")
        id = f"cmpl-{uuid.uuid4().hex}"
        echoes = [_Echo(model.codec, prompt) if body.echo else None for prompt in prompts]
        asked = _DEFAULT_MAX_TOKENS if body.max_tokens is None else body.max_tokens
        n = body.n or 1
        choices: list[Choice] = []
        for number, prompt in enumerate(prompts):
            # Scoring a prompt alone (max_tokens 0) draws one token, which is discarded.
            limit = model.room(len(prompt), max(asked, 1), "prompt")
            prompt_logprobs = body.logprobs if body.echo else None
            params = model.sampling(
                body.sampling(), limit, logprobs=body.logprobs, prompt_logprobs=prompt_logprobs
            )
            params = replace(params, grammar=grammar)
            echo = echoes[number]
            offset = len(echo.text) if echo else 0
            for choice in range(n):
                index = number * n + choice
                generate = engine_request(f"{id}-{index}", prompt, params, choice, caller, adapter)
                choices.append(Choice(index, generate, tuple(body.stop), offset))
        context.fitting.note_whole(sum(map(len, prompts)))
        answer = _CompletionAnswer(answering, id, body.model, choices, echoes, n, prompt_only=asked == 0)
        answer.checked = checked
        answer.with_logprobs = body.logprobs is not None
        if body.stream:
            include_usage = body.stream_options is not None and body.stream_options.include_usage
            return EventStream(answer.events(include_usage), context.stopped)
        return Answer(answer.whole(), context.stopped)

    return routes


class _Echo:
    """The prompt as the start of the text, and the offset in it of each prompt token."""

    def __init__(self, codec: Codec, tokens: Sequence[int]) -> None:
        # Control tokens are shown, because somebody wrote them. Only the BOS token that the server put in front is not.
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.tokens = tokens
        self.offsets: list[int] = []
        parts: list[str] = []
        length = 0
        for index, token in enumerate(tokens):
            self.offsets.append(length)
            added = index == 0 and token == codec.added_bos
            parts.append(decoder.decode(b"" if added else codec.token_bytes(token)))
            length += len(parts[-1])
        parts.append(decoder.decode(b"", final=True))
        self.text = "".join(parts)

    def rows(self, logprobs: Sequence[TokenLogprob | None], codec: Codec) -> CompletionLogprobs:
        rows = CompletionLogprobs([], [], [], [])
        for token, info, offset in zip(self.tokens, logprobs, self.offsets, strict=True):
            rows.tokens.append(_token_text(codec, token))
            rows.token_logprobs.append(info.logprob if info else None)
            rows.top_logprobs.append(_alternatives(info, codec) if info else None)
            rows.text_offset.append(offset)
        return rows


class _CompletionAnswer:
    """One response, as events or as a whole."""

    with_logprobs = False
    checked: Checked | None = None

    def __init__(
        self,
        answering: Answering,
        id: str,
        model: str,
        choices: Sequence[Choice],
        echoes: Sequence[_Echo | None],
        n: int,
        *,
        prompt_only: bool,
    ) -> None:
        self._answering = answering
        self._id = id
        self._model = model
        self._created = int(shared_time())
        self._choices = choices
        self._echoes = echoes
        self._n = n
        self._prompt_only = prompt_only
        self._begun: set[int] = set()

    async def _parts(self) -> AsyncGenerator[tuple[CompletionChoice, Counts], None]:
        """Yields updates as choices, with the echoed prompt in front of each choice's first."""
        codec = self._answering.model.codec
        async for update in self._answering.complete(self.checked, self._choices):
            if self._prompt_only:
                counts = replace(update.counts, completion=0)
                finish = "length" if update.finish_reason else None
                update = Update(update.index, "", (), update.prompt_logprobs, finish, counts)
            rows = _rows(update.entries, codec) if self.with_logprobs else None
            text = update.text
            echo = self._echoes[update.index // self._n]
            if echo and update.index not in self._begun:
                self._begun.add(update.index)
                text = echo.text + text
                if rows is not None:
                    # A prompt that the guard refuses was scored by nobody.
                    scored = update.prompt_logprobs or (None,) * len(echo.tokens)
                    rows = _joined([echo.rows(scored, codec), rows])
            yield CompletionChoice(update.index, text, rows, update.finish_reason), update.counts

    async def whole(self) -> bytes:
        parts: dict[int, list[CompletionChoice]] = {choice.index: [] for choice in self._choices}
        counts: dict[int, Counts] = {}
        async for part, count in self._parts():
            parts[part.index].append(part)
            counts[part.index] = count
        choices = [
            CompletionChoice(
                index,
                "".join(part.text for part in many),
                _joined([part.logprobs for part in many if part.logprobs]) if self.with_logprobs else None,
                many[-1].finish_reason,
            )
            for index, many in parts.items()
        ]
        body = _encode(self._body(choices, usage([counts[index] for index in parts], self._n)))
        if self.checked is None:
            offer(self._id, self._created, body)
        return body

    async def events(self, include_usage: bool) -> AsyncGenerator[bytes, None]:
        blank = None if include_usage else msgspec.UNSET
        counts: dict[int, Counts] = {}
        async for part, count in self._parts():
            counts[part.index] = count
            yield event(_encode(self._body([part], blank)))
        if include_usage:
            total = usage([counts[choice.index] for choice in self._choices], self._n)
            yield event(_encode(self._body([], total)))

    def _body(self, choices: list[CompletionChoice], total: Usage | msgspec.UnsetType | None) -> Completion:
        fingerprint = self._answering.model.fingerprint
        return Completion(self._id, self._created, self._model, choices, fingerprint, total)


def _joined(rows: Sequence[CompletionLogprobs]) -> CompletionLogprobs:
    whole = CompletionLogprobs([], [], [], [])
    for row in rows:
        whole.tokens += row.tokens
        whole.token_logprobs += row.token_logprobs
        whole.top_logprobs += row.top_logprobs
        whole.text_offset += row.text_offset
    return whole


def _rows(entries: Sequence[Entry], codec: Codec) -> CompletionLogprobs:
    return CompletionLogprobs(
        [_token_text(codec, entry.info.token) for entry in entries],
        [entry.info.logprob for entry in entries],
        [_alternatives(entry.info, codec) for entry in entries],
        [entry.offset for entry in entries],
    )


def _alternatives(info: TokenLogprob, codec: Codec) -> dict[str, float]:
    """Returns log probabilities by text: the best tokens and the token itself. Of two that read the same, the likelier."""
    found: dict[str, float] = {}
    for token, logprob in (*info.top, (info.token, info.logprob)):
        found.setdefault(_token_text(codec, token), logprob)
    return found


def _token_text(codec: Codec, token: int) -> str:
    data = codec.token_bytes(token)
    try:
        return data.decode()
    except UnicodeDecodeError:  # part of a character, which OpenAI writes this way
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)
