"""`LikelihoodReranker`: orders the best passages of a search by how likely a language model finds the query after them.

NOTE: likelihood. The model reads a passage and the request for a question about it; the mean log probability of the query's
tokens tells how well the passage answers it (Sachan et al. 2022, "Improving Passage Retrieval with Zero-Shot Question
Generation", arXiv:2204.07496). The passage has to stand in front, so candidates share no prefix that could be computed once:
the cost is that of all their tokens, in one batch of the engine.

NOTE: order. A small model alone orders worse than half of it and half of the search do: what words and vectors know of a
passage is not in its likelihood. Both are standardised over the candidates of the query and count the same.

NOTE: scores. The passages move between the scores of the search: the new first passage takes the best score, and so on.
Scores therefore stay between 0 and 1 and fall with the order, and a least score that the search has applied holds for them
still. Whether a search found something at all is thus decided by words and vectors, for which the scores are calibrated; the
likelihood of a query depends on its length and its words far more than on the passage.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from deepwell.errors import ContextLengthExceeded
from deepwell.knowledge.documents import Passage

__all__ = [
    "MOST_PASSAGES",
    "MOST_TOKENS",
    "LikelihoodReranker",
    "mean_logprob",
    "passage_prompt",
    "query_target",
    "reordered",
    "titled",
]

MOST_PASSAGES: Final = 20
"""Candidates that are ordered, at most."""

MOST_TOKENS: Final = 4096
"""Tokens that one search computes for it at most: 20 passages of about 180 tokens, or 7 whole chunks of 512."""

_WEIGHT: Final = 0.5  # of the likelihood; the rest is the search's
_BEFORE, _AFTER = "Passage: ", "\nPlease write a question based on this passage.\nQuestion:"


def passage_prompt(passage: str) -> str:
    """Returns the prompt after which the likelihood of a query tells how relevant a passage is."""
    return f"{_BEFORE}{passage}{_AFTER}"


def query_target(query: str) -> str:
    """Returns the query as it stands behind that prompt."""
    return f" {query}"


def mean_logprob(logprobs: NDArray[np.float32]) -> float:
    """Returns the mean of log probabilities, summed in float64."""
    return float(np.mean(logprobs, dtype=np.float64))


def titled(passage: Passage) -> str:
    """Returns the text of a passage below those of its headings that it does not have itself."""
    above = " > ".join(
        dict.fromkeys(one for one in passage.place.headings if one and one not in passage.text)
    )
    return f"{above}\n{passage.text}" if above else passage.text


class LikelihoodReranker(ABC):
    """A `Reranker` by the likelihood of the query. Passages are scored whole, or not at all.

    It takes passages from the front while they number at most `MOST_PASSAGES`, have at most `most_tokens` together, and each
    fits the model's context with the query.

    Attributes:
        most_tokens: tokens of one search, the query's with every passage; `MOST_TOKENS` unless several searches share them.
    """

    most_tokens: int = MOST_TOKENS

    async def rerank(self, query: str, texts: Sequence[str]) -> list[float]:
        """Returns the mean log probability of a token of the query after each of the first texts.

        Raises:
            ContextLengthExceeded: not even two texts are within the bounds, so that there is nothing to order.
            DeepwellError: the model cannot answer.
        """
        (target,) = await self._encoded([query_target(query)])
        target = self._unframed(target)
        prompts = await self._encoded([passage_prompt(one) for one in texts[:MOST_PASSAGES]])
        room, pairs = self.most_tokens, list[tuple[list[int], list[int]]]()
        for prompt in prompts:
            tokens = len(prompt) + len(target)
            if tokens > min(room, self._context_tokens):
                break
            room -= tokens
            pairs.append((prompt, target))
        if len(pairs) < 2:
            raise ContextLengthExceeded.of(
                "rerank_too_long", most=min(self.most_tokens, self._context_tokens)
            )
        return await self._likelihoods(pairs)

    @property
    @abstractmethod
    def _context_tokens(self) -> int:
        """The length of the model's context."""

    @abstractmethod
    async def _encoded(self, texts: Sequence[str]) -> list[list[int]]:
        """Returns the tokens of each text, in the model's frame."""

    @abstractmethod
    def _unframed(self, tokens: list[int]) -> list[int]:
        """Returns tokens without the frame."""

    @abstractmethod
    async def _likelihoods(self, pairs: Sequence[tuple[list[int], list[int]]]) -> list[float]:
        """Returns the mean log probability of the second of each pair after the first, all in one batch."""


def reordered(passages: Sequence[Passage], scores: Sequence[float]) -> list[Passage]:
    """Returns passages with the first ones, as many as there are reranker's scores, in the order of search and reranker.

    Passages of equal relevance keep their order: of two on which both disagree, the search's first one stays first. Each takes
    the search's score of the place that it comes to.
    """
    first, rest = passages[: len(scores)], passages[len(scores) :]
    found = np.array([one.score for one in first])
    relevance = _WEIGHT * _standardised(np.array(scores)) + (1 - _WEIGHT) * _standardised(found)
    # Rounded, because two passages on which search and reranker disagree are exactly equal but for the last bit.
    order = np.argsort(-relevance.round(9), kind="stable").tolist()
    moved = [replace(first[index], score=first[place].score) for place, index in enumerate(order)]
    return [*moved, *rest]


def _standardised(values: NDArray[np.float64]) -> NDArray[np.float64]:
    if not len(values) or not np.isfinite(values).all() or np.ptp(values) < 1e-9:
        return np.zeros(len(values))
    return (values - values.mean()) / values.std()
