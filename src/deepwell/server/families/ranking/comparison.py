"""Comparison of texts: the cosine of their embeddings, or the likelihood of one after the other.

NOTE: A decoder's embeddings, which are means over its last layer, rank worse than its likelihoods. Of eight questions, each
with one answer among eight sentences, smollm2 put the right one first for five by embedding and for all eight by likelihood;
qwen2.5-coder-0.5b for six and for eight.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from deepwell.dialogue.model import PromptTooLong, ServedModel
from deepwell.errors import ContextLengthExceeded, InvalidRequest
from deepwell.knowledge.rerank import mean_logprob, passage_prompt, query_target
from deepwell.server.families.ranking.schema import Method, RerankRequest, ScoreRequest
from deepwell.server.together import together

__all__ = ["MAX_TOKENS", "Comparison", "compare_documents", "compare_pairs", "method_of"]

MAX_TOKENS = 300_000
"""The most tokens that a request computes, as for embeddings."""


class Comparison(Protocol):
    """Pairs of tokenised texts that fit the model."""

    @property
    def tokens(self) -> int:
        """Number of tokens that are computed."""
        ...

    async def scores(self, model: ServedModel, adapter: str) -> list[float]:
        """Returns the score of every pair."""
        ...


@dataclass(frozen=True, slots=True)
class Embedded:
    """Pairs of texts compared by the cosine of their embeddings. Each text is embedded once."""

    texts: Sequence[list[int]]
    pairs: Sequence[tuple[int, int]]

    @property
    def tokens(self) -> int:
        return sum(map(len, self.texts))

    async def scores(self, model: ServedModel, adapter: str) -> list[float]:
        vectors = await together(model.engine.embed(tokens, adapter=adapter) for tokens in self.texts)
        return [_cosine(vectors[left], vectors[right]) for left, right in self.pairs]


@dataclass(frozen=True, slots=True)
class Likely:
    """Pairs of texts compared by the probability of the second after the first, as the geometric mean over its tokens."""

    contexts: Sequence[list[int]]
    targets: Sequence[list[int]]
    pairs: Sequence[tuple[int, int]]

    @property
    def tokens(self) -> int:
        return sum(len(self.contexts[left]) + len(self.targets[right]) for left, right in self.pairs)

    async def scores(self, model: ServedModel, adapter: str) -> list[float]:
        async def score(context: list[int], target: list[int]) -> float:
            logprobs = await model.engine.score([*context, *target], adapter=adapter)
            return math.exp(mean_logprob(logprobs[-len(target) :]))

        return await together(score(self.contexts[left], self.targets[right]) for left, right in self.pairs)


def method_of(model: ServedModel, asked: Method | None) -> Method:
    """Returns the method that is asked for, or the model's default.

    Raises:
        InvalidRequest: likelihoods are asked of a model that generates no text.
    """
    if asked == "likelihood" and not model.answers:
        raise InvalidRequest(
            f"{model.name!r} embeds text and has no likelihoods",
            fix="leave method out, or name a model that generates text",
            param="method",
        )
    return asked or ("likelihood" if model.answers else "embedding")


async def compare_documents(model: ServedModel, body: RerankRequest, method: Method) -> Comparison:
    """Returns the comparison of the query with every document.

    Raises:
        ContextLengthExceeded: a text is too long for the model.
        InvalidRequest: the texts have too many tokens together.
    """
    count = len(body.documents)
    if method == "embedding":
        before_query, before_passage = (model.codec.prompts.get(name, "") for name in ("query", "passage"))
        query = await _encode(model, [before_query + body.query], "query")
        documents = await _encode(model, [before_passage + one for one in body.documents], "documents")
        return _bounded(
            Embedded([*query, *documents], [(0, 1 + index) for index in range(count)]), "documents"
        )
    query = await _encode(model, [query_target(body.query)], "query")
    documents = await _encode(model, [passage_prompt(one) for one in body.documents], "documents")
    targets = [model.codec.unframed(query[0])]
    return _fitting(model, Likely(documents, targets, [(index, 0) for index in range(count)]), "documents")


async def compare_pairs(model: ServedModel, body: ScoreRequest, method: Method) -> Comparison:
    """Returns the comparison of the texts of every pair.

    Raises:
        ContextLengthExceeded: a text is too long for the model.
        InvalidRequest: the texts have too many tokens together.
    """
    first = await _encode(model, body.text_1, "text_1")
    second = await _encode(model, body.text_2, "text_2")
    pairs = [(index if len(first) > 1 else 0, index) for index in range(len(second))]
    if method == "embedding":
        return _bounded(
            Embedded([*first, *second], [(one, len(first) + two) for one, two in pairs]), "text_2"
        )
    return _fitting(
        model, Likely(first, [model.codec.unframed(tokens) for tokens in second], pairs), "text_2"
    )


async def _encode(model: ServedModel, texts: Sequence[str], param: str) -> list[list[int]]:
    """Returns the tokens of texts, each of which fits the model."""
    window = model.capabilities.max_model_len
    try:
        encoded = await model.encode_prompts(texts, param)
    except PromptTooLong as error:
        place = _place(texts, param, error.index)
        raise _too_long(window, place, error.tokens, param, exact=error.exact) from None
    for index, tokens in enumerate(encoded):
        if len(tokens) > window:
            raise _too_long(window, _place(texts, param, index), len(tokens), param)
    return encoded


def _place(texts: Sequence[str], param: str, index: int) -> str:
    return f"{param}[{index}]" if len(texts) > 1 else param


def _fitting(model: ServedModel, comparison: Likely, param: str) -> Comparison:
    """Returns a comparison of which each pair fits the model.

    Raises:
        ContextLengthExceeded: a pair does not.
        InvalidRequest: see `_bounded`.
    """
    window = model.capabilities.max_model_len
    for index, (left, right) in enumerate(comparison.pairs):
        tokens = len(comparison.contexts[left]) + len(comparison.targets[right])
        if tokens > window:
            raise _too_long(window, f"{param}[{index}]", tokens, param, paired=True)
    return _bounded(comparison, param)


def _bounded(comparison: Comparison, param: str) -> Comparison:
    """Returns a comparison that computes no more than `MAX_TOKENS`.

    Raises:
        InvalidRequest: it computes more.
    """
    if comparison.tokens > MAX_TOKENS:
        raise InvalidRequest(
            f"the texts have {comparison.tokens} tokens together, and {MAX_TOKENS} are allowed",
            fix="send fewer or shorter ones in a request",
            param=param,
        )
    return comparison


def _too_long(
    window: int, place: str, tokens: int, param: str, *, exact: bool = True, paired: bool = False
) -> ContextLengthExceeded:
    return ContextLengthExceeded.of(
        "ranked_too_long",
        param=param,
        window=window,
        place=f"{place} with the other text" if paired else place,
        place_zh=f" {place} 连同另一段文本" if paired else f" {place} ",
        tokens=tokens if exact else f"at least {tokens}",
        tokens_zh=tokens if exact else f"至少 {tokens}",
    )


def _cosine(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Returns the cosine of two vectors of unit length."""
    cosine = float(np.dot(one.astype(np.float64), other.astype(np.float64)))
    return min(1.0, max(-1.0, cosine))
