"""The completions API of OpenAI in two levels: with vLLM's fields, which exchange token ids, and text alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final, cast

import msgspec

from deepwell.engine.hosting.remote.faults import bad_answer, lacking, refused
from deepwell.engine.hosting.remote.parts import (
    Part,
    decoded,
    embedding_body,
    entry_of,
    finish_of,
    salt_of,
    seed_of,
)
from deepwell.engine.protocol import Ability, GenerateRequest, Grammar, SamplingParams, TokenLogprob
from deepwell.errors import DeepwellError

__all__ = ["TextShape", "TokenShape", "Tokenise", "generation_fields"]

Tokenise = Callable[[str], list[int]]
_ID: Final = "token_id:"
_OF_VLLM: Final = ("top_k", "min_p", "repetition_penalty", "min_tokens", "ignore_eos")
_LOWEST: Final = -9999.0  # JSON has no infinity


class _Details(msgspec.Struct):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    prompt_tokens_details: _Details | None = None


class _Logprobs(msgspec.Struct):
    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float | None] | None] | None = None


class _Entry(msgspec.Struct):
    logprob: float
    rank: int | None = None


class _Choice(msgspec.Struct):
    text: str = ""
    token_ids: list[int] | None = None
    logprobs: _Logprobs | None = None
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    prompt_logprobs: list[dict[int, _Entry] | None] | None = None


class _Completion(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: Any = None


def _read(event: bytes, url: str) -> tuple[_Choice | None, int | None, int | None]:
    """Returns the choice of an event and the counts of the prompt, each None where there is none.

    Raises:
        DeepwellError: it is no completion, or an error that the server tells in its stream.
    """
    found = decoded(event, _Completion, url)
    if found.error is not None:
        raise _told(event, found.error, url)
    if len(found.choices) > 1:
        raise bad_answer(url, f"{len(found.choices)} choices where one was asked for")
    usage = found.usage
    details = usage.prompt_tokens_details if usage else None
    choice = found.choices[0] if found.choices else None
    return choice, usage.prompt_tokens if usage else None, details.cached_tokens if details else None


def _told(event: bytes, error: Any, url: str) -> DeepwellError:
    code = cast("dict[str, Any]", error).get("code") if isinstance(error, dict) else None
    status = code if isinstance(code, int) and 400 <= code < 600 else 500
    found = refused(url, status, event)
    return found if isinstance(found, DeepwellError) else found.error


def generation_fields(request: GenerateRequest) -> dict[str, Any]:
    """Returns the fields of a body that every OpenAI-compatible server knows, the prompt and the model excepted."""
    params = request.params
    body: dict[str, Any] = {
        "max_tokens": max(params.max_tokens, 1),
        "temperature": params.temperature,
        "top_p": params.top_p,
        "presence_penalty": params.presence_penalty,
        "frequency_penalty": params.frequency_penalty,
    }
    if (seed := seed_of(request)) is not None:
        body["seed"] = seed
    if params.logit_bias:
        body["logit_bias"] = {str(token): bias for token, bias in params.logit_bias.items()}
    return body


class TokenShape:
    """vLLM's completions: token ids in, token ids out, with the log probabilities of both.

    Args:
        model: name of the model on the server. An adapter is asked for by its own name.
        eos: the tokens that end a sequence of this model.
        lacks: parts of the protocol that probing found missing.
    """

    path = "/v1/completions"
    waits = False

    def __init__(
        self, url: str, model: str, eos: tuple[int, ...], lacks: tuple[Ability, ...], kind: str = "vllm"
    ) -> None:
        self.kind = kind
        self.lacks = lacks
        self.url = url
        self._model = model
        self._eos = eos

    def check(self, request: GenerateRequest) -> None:
        """Refuses Lark grammars where probing found that they are not understood. Whatever else vLLM refuses, it says."""
        grammar = request.params.grammar
        if grammar is not None and grammar.kind == "lark" and "grammar" in self.lacks:
            raise lacking(self.url, "grammar (lark)", "grammar")

    def body(self, request: GenerateRequest, *, stream: bool) -> dict[str, Any]:
        """Returns the body, with every parameter, so that no default of the server counts."""
        params = request.params
        body = generation_fields(request) | {
            "model": request.adapter or self._model,
            "prompt": list(request.prompt),
            "add_special_tokens": False,
            "return_token_ids": True,
            "skip_special_tokens": False,
            "top_k": params.top_k,
            "min_p": params.min_p,
            "repetition_penalty": params.repetition_penalty,
            "min_tokens": min(params.min_tokens, max(params.max_tokens, 1)),
            "ignore_eos": params.ignore_eos,
            "stop_token_ids": sorted(self._stops(params)),
            "stream": stream,
        }
        if stream:
            body["stream_options"] = {"include_usage": True}
        if params.logprobs is not None:
            body |= {"logprobs": params.logprobs, "return_tokens_as_token_ids": True}
        if params.prompt_logprobs is not None:
            body["prompt_logprobs"] = params.prompt_logprobs
        if salt := salt_of(request):
            body["cache_salt"] = salt
        if params.grammar is not None:
            body["structured_outputs"] = _structured(params.grammar)
        return body

    def reader(self, request: GenerateRequest) -> TokenReader:
        """Returns a reader for the answer to a request."""
        return TokenReader(request, self._stops(request.params), self.url)

    def embedding(self, model: str, tokens: list[int]) -> dict[str, Any]:
        """Returns the body of a request to `/v1/embeddings`."""
        return embedding_body(model, tokens)

    def _stops(self, params: SamplingParams) -> frozenset[int]:
        return frozenset((*params.stop_token_ids, *(() if params.ignore_eos else self._eos)))


class TokenReader:
    """Reads the answer to one request from events with token ids."""

    def __init__(self, request: GenerateRequest, stops: frozenset[int], url: str) -> None:
        self._request = request
        self._stops = stops
        self._url = url

    def read(self, event: bytes) -> Part:
        """Returns the tokens of an event. The token that ends the sequence is left out.

        Raises:
            DeepwellError: the event is not what vLLM sends, or an error of it.
        """
        choice, prompt, cached = _read(event, self._url)
        if choice is None:
            return Part(prompt_tokens=prompt, cached_tokens=cached)
        params = self._request.params
        tokens = choice.token_ids
        if tokens is None:
            raise bad_answer(self._url, "a choice without token_ids")
        entries = self._entries(choice, len(tokens)) if params.logprobs is not None else []
        finish = finish_of(choice.finish_reason, self._url)
        stop = None
        if finish == "stop" and tokens and (tokens[-1] == choice.stop_reason or tokens[-1] in self._stops):
            stop = tokens.pop()
            entries = entries[: len(tokens)]
        if params.max_tokens == 0:
            tokens, entries, finish, stop = [], [], "length" if finish else None, None
        return Part(tuple(tokens), tuple(entries), self._prompt(choice), finish, stop, prompt, cached)

    def _entries(self, choice: _Choice, count: int) -> list[TokenLogprob]:
        rows = choice.logprobs
        if rows is None or len(rows.tokens) != count or len(rows.token_logprobs) != count:
            raise bad_answer(self._url, f"no log probability for each of {count} tokens")
        tops = rows.top_logprobs or [None] * count
        if len(tops) != count:
            raise bad_answer(self._url, f"{len(tops)} rows of alternatives for {count} tokens")
        most = self._request.params.logprobs or 0
        found: list[TokenLogprob] = []
        for text, logprob, top in zip(rows.tokens, rows.token_logprobs, tops, strict=True):
            others = [(self._id(name), _finite(value)) for name, value in (top or {}).items()]
            found.append(entry_of(self._id(text), _finite(logprob), others, most))
        return found

    def _id(self, text: str) -> int:
        number = text.removeprefix(_ID)
        if not text.startswith(_ID) or not (number.isascii() and number.isdigit()) or len(number) > 10:
            raise bad_answer(self._url, f"the token {text[:40]!r} in place of its id")
        return int(number)

    def _prompt(self, choice: _Choice) -> tuple[TokenLogprob | None, ...] | None:
        request = self._request
        asked = request.params.prompt_logprobs
        if asked is None:
            return None
        rows, prompt = choice.prompt_logprobs, request.prompt
        if rows is None or len(rows) != len(prompt):
            raise bad_answer(self._url, f"no log probability for each of {len(prompt)} tokens of the prompt")
        found: list[TokenLogprob | None] = [None]
        for place, (token, row) in enumerate(zip(prompt[1:], rows[1:], strict=True), 1):
            if place < request.params.prompt_logprobs_start:
                found.append(None)
                continue
            own = (row or {}).get(token)
            if own is None:
                raise bad_answer(self._url, f"no log probability of token {place} of the prompt")
            best = sorted(((other, one.logprob) for other, one in (row or {}).items()), key=lambda o: -o[1])
            found.append(TokenLogprob(token, own.logprob, own.rank or 0, tuple(best[:asked])))
        return tuple(found)


class TextShape:
    """OpenAI's own completions: text out, which is tokenised here. Whatever needs token ids is refused.

    Args:
        tokenise: returns the tokens of a piece of text, in which control tokens are plain text.
        detokenise: returns the text of a prompt; None: the server takes token ids as a prompt.
        own: whether the server is Deepwell's, which embeds token ids only if they are said to be the model's.
    """

    kind = "openai"
    path = "/v1/completions"
    waits = True

    def __init__(
        self,
        url: str,
        model: str,
        lacks: tuple[Ability, ...],
        tokenise: Tokenise,
        detokenise: Callable[[list[int]], str] | None,
        *,
        own: bool = False,
    ) -> None:
        self.url = url
        self.lacks = lacks
        self._model = model
        self._tokenise = tokenise
        self._detokenise = detokenise
        self._own = own

    def check(self, request: GenerateRequest) -> None:
        """Refuses log probabilities, parameters that the server does not know, and grammars unless it keeps to them."""
        params = request.params
        own = {
            "top_k": params.top_k > 0,
            "min_p": params.min_p > 0,
            "repetition_penalty": params.repetition_penalty != 1.0,
            "min_tokens": params.min_tokens > 0,
            "ignore_eos": params.ignore_eos,
            "stop_token_ids": bool(params.stop_token_ids),
        }
        given = own if "sampling" in self.lacks else {}
        given |= {
            "logprobs": params.logprobs is not None,
            "prompt_logprobs": params.prompt_logprobs is not None,
            "grammar": params.grammar is not None and "grammar" in self.lacks,
        }
        for name, is_given in given.items():
            if is_given:
                raise lacking(self.url, name, name)

    def body(self, request: GenerateRequest, *, stream: bool) -> dict[str, Any]:
        """Returns the body. A request for log probabilities of the prompt asks for its echo."""
        params, prompt = request.params, list(request.prompt)
        body = generation_fields(request) | {
            "model": request.adapter or self._model,
            "prompt": self._detokenise(prompt) if self._detokenise else prompt,
            "stream": stream,
        }
        if stream:
            body["stream_options"] = {"include_usage": True}
        if params.prompt_logprobs is not None:
            body |= {"echo": True, "logprobs": params.prompt_logprobs}
        if "sampling" not in self.lacks:
            body |= {name: getattr(params, name) for name in _OF_VLLM}
            body["stop_token_ids"] = list(params.stop_token_ids)
        if params.grammar is not None:
            body["structured_outputs"] = _structured(params.grammar)
            body.pop("min_tokens", None)
            body.pop("ignore_eos", None)
        return body

    def reader(self, request: GenerateRequest) -> TextReader:
        """Returns a reader for the answer to a request."""
        return TextReader(request, self._tokenise, self.url)

    def embedding(self, model: str, tokens: list[int]) -> dict[str, Any]:
        """Returns the body of a request to `/v1/embeddings`."""
        return embedding_body(model, tokens) | ({"tokenizer": model} if self._own else {})


class TextReader:
    """Reads the answer to one request from events with text."""

    def __init__(self, request: GenerateRequest, tokenise: Tokenise, url: str) -> None:
        self._request = request
        self._tokenise = tokenise
        self._url = url

    def read(self, event: bytes) -> Part:
        """Returns the text of an event as tokens.

        Raises:
            DeepwellError: the event is no completion, or an error of the server.
        """
        choice, prompt, cached = _read(event, self._url)
        if choice is None:
            return Part(prompt_tokens=prompt, cached_tokens=cached)
        finish = finish_of(choice.finish_reason, self._url)
        params = self._request.params
        if params.prompt_logprobs is not None:
            return Part((), (), self._scored(choice), finish, None, prompt, cached)
        tokens = self._tokenise(choice.text) if choice.text and params.max_tokens else []
        return Part(tuple(tokens), (), None, finish, None, prompt, cached)

    def _scored(self, choice: _Choice) -> tuple[TokenLogprob | None, ...]:
        """Returns the log probabilities of an echoed prompt. Its tokens were sent as ids, so places tell them apart."""
        prompt, start = self._request.prompt, self._request.params.prompt_logprobs_start
        values = choice.logprobs.token_logprobs if choice.logprobs else []
        if len(values) < len(prompt) or any(value is None for value in values[1 : len(prompt)]):
            raise bad_answer(self._url, f"no log probability for each of {len(prompt)} tokens of the prompt")
        return tuple(
            None if place < start else TokenLogprob(token, _finite(value), 0)
            for place, (token, value) in enumerate(zip(prompt, values, strict=False))
        )


def _structured(grammar: Grammar) -> dict[str, Any]:
    """Returns a grammar as vLLM's field `structured_outputs`, which Deepwell's own server reads as well."""
    if grammar.kind == "json_schema":
        return {"json": msgspec.json.decode(grammar.source)}
    return {"regex": grammar.source} if grammar.kind == "regex" else {"grammar": grammar.source}


def _finite(value: float | None) -> float:
    return _LOWEST if value is None or math.isinf(value) else value
