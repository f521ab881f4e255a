"""SGLang's own `/generate`: token ids in, token ids out. Written to its documented shapes, and tried against those alone."""

from __future__ import annotations

from typing import Any

import msgspec

from deepwell.engine.hosting.remote.faults import bad_answer, lacking
from deepwell.engine.hosting.remote.parts import Part, decoded, embedding_body, entry_of, finish_of, seed_of
from deepwell.engine.protocol import Ability, GenerateRequest, Grammar, TokenLogprob

__all__ = ["SglangReader", "SglangShape"]

_Row = tuple[float | None, int, str | None]  # log probability, token, its text


class _Finish(msgspec.Struct):
    type: str
    matched: int | str | None = None
    message: str = ""


class _Meta(msgspec.Struct):
    finish_reason: _Finish | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int | None = None
    output_token_logprobs: list[_Row] | None = None
    output_top_logprobs: list[list[_Row] | None] | None = None
    input_token_logprobs: list[_Row] | None = None
    input_top_logprobs: list[list[_Row] | None] | None = None


class _Generated(msgspec.Struct):
    output_ids: list[int] = []
    meta_info: _Meta | None = None
    error: Any = None


class SglangShape:
    """SGLang's requests.

    Args:
        eos: the tokens that end a sequence of this model.
    """

    kind = "sglang"
    path = "/generate"
    waits = False

    def __init__(self, url: str, eos: tuple[int, ...], lacks: tuple[Ability, ...]) -> None:
        self.url = url
        self.lacks = lacks
        self._eos = eos

    def check(self, request: GenerateRequest) -> None:
        """Refuses Lark grammars, which it does not take. Whatever else it refuses, it says."""
        grammar = request.params.grammar
        if grammar is not None and grammar.kind == "lark":
            raise lacking(self.url, "grammar (lark)", "grammar")

    def body(self, request: GenerateRequest, *, stream: bool) -> dict[str, Any]:
        """Returns the body, with every parameter, so that no default of the server counts."""
        params = request.params
        sampling: dict[str, Any] = {
            "max_new_tokens": max(params.max_tokens, 1),
            "min_new_tokens": params.min_tokens,
            "temperature": params.temperature,
            "top_p": params.top_p,
            "top_k": params.top_k or -1,
            "min_p": params.min_p,
            "presence_penalty": params.presence_penalty,
            "frequency_penalty": params.frequency_penalty,
            "repetition_penalty": params.repetition_penalty,
            "ignore_eos": params.ignore_eos,
            "stop_token_ids": sorted(self._stops(request)),
            "skip_special_tokens": False,
        }
        if params.logit_bias:
            sampling["logit_bias"] = {str(token): bias for token, bias in params.logit_bias.items()}
        if (seed := seed_of(request)) is not None:
            sampling["sampling_seed"] = seed
        if params.grammar is not None:
            sampling |= _constraint(params.grammar)
        body: dict[str, Any] = {
            "input_ids": list(request.prompt),
            "sampling_params": sampling,
            "stream": stream,
        }
        if params.logprobs is not None or params.prompt_logprobs is not None:
            most = max(params.logprobs or 0, params.prompt_logprobs or 0)
            body |= {"return_logprob": True, "top_logprobs_num": most}
            body["logprob_start_len"] = 0 if params.prompt_logprobs is not None else -1
        if request.adapter:
            body["lora_path"] = request.adapter
        return body

    def reader(self, request: GenerateRequest) -> SglangReader:
        """Returns a reader for the answer to a request."""
        return SglangReader(request, self._stops(request), self.url)

    def embedding(self, model: str, tokens: list[int]) -> dict[str, Any]:
        """Returns the body of a request to `/v1/embeddings`."""
        return embedding_body(model, tokens)

    def _stops(self, request: GenerateRequest) -> frozenset[int]:
        params = request.params
        return frozenset((*params.stop_token_ids, *(() if params.ignore_eos else self._eos)))


class SglangReader:
    """Reads the answer to one request. Its events hold all tokens so far, or the new ones alone, as the server was started."""

    def __init__(self, request: GenerateRequest, stops: frozenset[int], url: str) -> None:
        self._request = request
        self._stops = stops
        self._url = url
        self._seen = 0

    def read(self, event: bytes) -> Part:
        """Returns the tokens that an event adds. The token that ends the sequence is left out.

        Raises:
            DeepwellError: the event is not what SGLang sends, or an error of it.
        """
        found = decoded(event, _Generated, self._url)
        meta = found.meta_info
        if found.error is not None or meta is None:
            raise bad_answer(self._url, f"the error {str(found.error)[:200]}")
        params = self._request.params
        total = meta.completion_tokens
        fresh = total - self._seen
        if fresh < 0 or len(found.output_ids) not in (fresh, total):
            raise bad_answer(self._url, f"{len(found.output_ids)} tokens, and a count of {total}")
        tokens = found.output_ids[len(found.output_ids) - fresh :]
        entries: list[TokenLogprob] = []
        if params.logprobs is not None:
            entries = self._entries(tokens, meta, params.logprobs)
        first, self._seen = self._seen == 0, total
        finish, stop = None, None
        if meta.finish_reason is not None:
            if meta.finish_reason.type == "abort":
                raise bad_answer(self._url, meta.finish_reason.message or "an abort")
            finish = finish_of(meta.finish_reason.type, self._url)
            if finish == "stop" and tokens and tokens[-1] in self._stops | {meta.finish_reason.matched}:
                stop = tokens.pop()
                entries = entries[: len(tokens)]
        prompt = None
        if first and params.prompt_logprobs is not None:
            prompt = self._prompt(meta, params.prompt_logprobs)
        if params.max_tokens == 0:
            tokens, entries, finish, stop = [], [], "length" if finish else None, None
        counts = meta.prompt_tokens, meta.cached_tokens
        return Part(tuple(tokens), tuple(entries), prompt, finish, stop, *counts)

    def _entries(self, tokens: list[int], meta: _Meta, most: int) -> list[TokenLogprob]:
        count = len(tokens)
        rows = (meta.output_token_logprobs or [])[-count:] if count else []
        tops = (meta.output_top_logprobs or [None] * count)[-count:] if count else []
        if [row[1] for row in rows] != tokens or len(tops) != count:
            raise bad_answer(self._url, f"no log probability for each of {count} tokens")
        return [_entry(row, top, most) for row, top in zip(rows, tops, strict=True)]

    def _prompt(self, meta: _Meta, most: int) -> tuple[TokenLogprob | None, ...]:
        prompt = list(self._request.prompt)
        rows = meta.input_token_logprobs or []
        tops = meta.input_top_logprobs or [None] * len(rows)
        if [row[1] for row in rows] != prompt or len(tops) != len(rows):
            raise bad_answer(self._url, f"no log probability for each of {len(prompt)} tokens of the prompt")
        start = self._request.params.prompt_logprobs_start
        return tuple(
            None if place < start else _entry(row, top, most)
            for place, (row, top) in enumerate(zip(rows, tops, strict=True))
        )


def _entry(row: _Row, top: list[_Row] | None, most: int) -> TokenLogprob:
    others = [(token, -9999.0 if logprob is None else logprob) for logprob, token, _ in top or ()]
    return entry_of(row[1], -9999.0 if row[0] is None else row[0], others, most)


def _constraint(grammar: Grammar) -> dict[str, str]:
    """Returns a grammar as one of SGLang's constraints, which have the same names."""
    return {grammar.kind: grammar.source}
