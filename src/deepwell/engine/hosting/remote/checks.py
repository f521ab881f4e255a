"""Checks of what is asked of a server, and of what it says, against the limits that are known here: no answer is trusted."""

from __future__ import annotations

import math
from dataclasses import replace

import msgspec
import numpy as np
from numpy.typing import NDArray

from deepwell.engine.hosting.remote.faults import bad_answer, lacking
from deepwell.engine.hosting.remote.parts import Part, decoded
from deepwell.engine.prompts import checked_prompt, first_row
from deepwell.engine.protocol import Capabilities, GenerateRequest, TokenLogprob, check_params

__all__ = ["checked_part", "checked_request", "vector_of"]


def checked_request(request: GenerateRequest, capabilities: Capabilities, url: str) -> None:
    """Refuses a request that no engine of these limits takes, or that this server lacks a part for.

    Raises:
        ContextLengthExceeded: the prompt and `max_tokens` do not fit together.
        InvalidRequest: a parameter is out of range, or belongs to what the server lacks.
    """
    params, lacks = request.params, capabilities.lacks
    check_params(params, capabilities.vocab_size)
    prompt = checked_prompt(request.prompt, params.max_tokens, request.window, capabilities)
    first_row(prompt, params.prompt_logprobs_start, "prompt_logprobs_start")
    if request.window is not None:
        raise lacking(url, "window", "window")
    if params.logprobs is not None and "logprobs" in lacks:
        raise lacking(url, "logprobs", "logprobs")
    if params.prompt_logprobs is not None and "score" in lacks:
        raise lacking(url, "prompt_logprobs", "prompt_logprobs")


def checked_part(
    part: Part, request: GenerateRequest, before: int, capabilities: Capabilities, url: str
) -> Part:
    """Returns an event of an answer when it keeps to the request.

    Args:
        before: number of tokens that earlier events brought.

    Raises:
        EngineUnavailable: there are more tokens than were asked for, or ids, counts or log probabilities that cannot be.
    """
    if min(part.prompt_tokens or 0, part.cached_tokens or 0) < 0:
        raise bad_answer(url, "a negative count of tokens")
    vocab, most = capabilities.vocab_size, request.params.max_tokens
    if any(not 0 <= token < vocab for token in part.tokens):
        raise bad_answer(url, f"a token outside of the vocabulary of {vocab}")
    if "token_ids" in capabilities.lacks:
        part = _cut(part, before, request, url)
    elif before + len(part.tokens) > most:
        raise bad_answer(url, f"more than the {most} tokens that were asked for")
    for entry in (*part.logprobs, *(part.prompt_logprobs or ())):
        if entry is not None:
            _check_entry(entry, vocab, url)
    if [entry.token for entry in part.logprobs] != list(part.tokens[: len(part.logprobs)]):
        raise bad_answer(url, "log probabilities of other tokens than the answer's")
    return part


def _cut(part: Part, before: int, request: GenerateRequest, url: str) -> Part:
    """Checks the length of text. Its tokens are counted anew, and a piece cut in two may take more than the server counted."""
    if before + len(part.tokens) > 4 * request.params.max_tokens + 64:
        raise bad_answer(url, f"a text of far more than the {request.params.max_tokens} tokens asked for")
    return replace(part, logprobs=())


def _check_entry(entry: TokenLogprob, vocab: int, url: str) -> None:
    pairs = [(entry.token, entry.logprob), *entry.top]
    if any(not 0 <= token < vocab or math.isnan(value) or value > 1e-3 for token, value in pairs):
        raise bad_answer(url, "a log probability that cannot be")


class _Vector(msgspec.Struct):
    embedding: list[float]


class _Embeddings(msgspec.Struct):
    data: list[_Vector]


def vector_of(answer: bytes, size: int, url: str) -> NDArray[np.float32]:
    """Returns the one vector of an answer of `/v1/embeddings`, at length 1: [size].

    Args:
        size: its dimension; 0: any.

    Raises:
        EngineUnavailable: there is not one of that dimension.
    """
    data = decoded(answer, _Embeddings, url).data
    vector = np.asarray(data[0].embedding if len(data) == 1 else [], np.float32)
    norm = float(np.linalg.norm(vector))
    if not len(vector) or (size and len(vector) != size) or not math.isfinite(norm) or norm == 0:
        raise bad_answer(url, f"an embedding of {len(vector)} dimensions where {size or 'some'} are expected")
    return vector / np.float32(norm)
