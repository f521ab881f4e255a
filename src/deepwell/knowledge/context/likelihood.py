"""`LikelihoodScorer`: how much a sentence raises the likelihood of the question, by the language model itself.

NOTE: contrast. The score of a sentence is the mean log probability of the question's tokens behind it, less that behind an
empty passage: the contrast of LongLLMLingua (Jiang et al. 2023, arXiv:2310.06839, section 4.1), taken of the question given the
sentence. The words around both are those of `knowledge.rerank`. The cost is that of all tokens of the sentences, in batches of
the engine; `CascadeScorer` asks it about the best sentences alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from deepwell.knowledge.context.scores import nearness
from deepwell.knowledge.rerank import passage_prompt, query_target

if TYPE_CHECKING:
    from deepwell.llm import AsyncLLM

__all__ = ["LikelihoodScorer", "Likelihoods", "ModelLikelihoods"]


class Likelihoods(Protocol):
    """A language model that scores continuations."""

    async def mean_logprobs(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """Returns the mean log probability of a token of the second text of each pair, behind the first."""
        ...


class ModelLikelihoods:
    """`Likelihoods` of a model that is open in this process. It does not close the model."""

    def __init__(self, llm: AsyncLLM) -> None:
        self._llm = llm

    async def mean_logprobs(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        llm = self._llm
        made: dict[str, list[int]] = {}
        for text in dict.fromkeys(text for pair in pairs for text in pair):
            made[text] = await llm.tokenize(text)
        scores = await llm.score([(made[prompt], llm.unframed(made[target])) for prompt, target in pairs])
        return [one.mean for one in scores]


class LikelihoodScorer:
    """A scorer by the gain in log likelihood of a token of the question that a sentence brings."""

    def __init__(self, model: Likelihoods) -> None:
        self._model = model

    async def gains(self, facets: Sequence[str], texts: Sequence[str]) -> NDArray[np.float64]:
        """Returns the gain of each facet by each text, in nats a token: float64 [facets, texts]."""
        behind = [passage_prompt(text) for text in ("", *texts)]
        pairs = [(prompt, query_target(facet)) for facet in facets for prompt in behind]
        found = np.array(await self._model.mean_logprobs(pairs), np.float64).reshape(len(facets), len(behind))
        return found[:, 1:] - found[:, :1]

    async def score(self, facets: Sequence[str], texts: Sequence[str]) -> NDArray[np.float64]:
        if not len(texts):
            return np.zeros((len(facets), 0))
        # A sentence that makes the question less likely than none does is worth nothing.
        return nearness(np.maximum(await self.gains(facets, texts), 0.0))
