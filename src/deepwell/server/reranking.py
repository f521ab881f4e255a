"""`ServedReranker`: a served model as the reranker of searches, through admission and limits."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from deepwell.errors import InvalidRequest
from deepwell.knowledge.rerank import MOST_TOKENS, LikelihoodReranker, mean_logprob
from deepwell.server.answering import Answering
from deepwell.server.context import ServerContext
from deepwell.server.together import together
from deepwell.storage.database import Tenant

__all__ = ["ServedReranker", "reranker_of"]


def reranker_of(context: ServerContext, tenant: Tenant, searches: int = 1) -> ServedReranker | None:
    """Returns the reranker of a request, as the setting `knowledge_reranker` names it; None if it names none.

    Args:
        searches: number of searches of the request, which share the tokens of one.
    """
    name = context.options.knowledge.reranker
    return None if name is None else ServedReranker(context, name, tenant, MOST_TOKENS // searches)


class ServedReranker(LikelihoodReranker):
    """Reranks for one request. Its tokens count against the limits of the caller.

    The model is looked up when there are passages to rerank, so that a model on demand is loaded for nothing else.
    """

    def __init__(
        self, context: ServerContext, name: str, tenant: Tenant, most_tokens: int = MOST_TOKENS
    ) -> None:
        """Reranks with the model or adapter that the tenant sees under a name."""
        self.name = name
        self.most_tokens = most_tokens
        self._context = context
        self._tenant = tenant
        self._found: tuple[Answering, str] | None = None

    async def rerank(self, query: str, texts: Sequence[str]) -> list[float]:
        """Returns the mean log probability of a token of the query after each of the first texts.

        Raises:
            ModelNotFound: the tenant sees no model of the name.
            InvalidRequest: the model is an encoder.
            ContextLengthExceeded: see `LikelihoodReranker`.
            Overloaded, RateLimited: as for any computation of these tokens.
        """
        self._found = await self._context.find(self.name, self._tenant)
        if not self._found[0].model.answers:
            raise InvalidRequest(
                f"{self.name!r} embeds text and has no likelihoods to rerank by",
                fix="let knowledge_reranker name a model that generates text",
            )
        return await super().rerank(query, texts)

    @property
    def _answering(self) -> Answering:
        assert self._found is not None
        return self._found[0]

    @property
    def _context_tokens(self) -> int:
        return self._answering.model.capabilities.max_model_len

    async def _encoded(self, texts: Sequence[str]) -> list[list[int]]:
        codec = self._answering.model.codec
        return await asyncio.to_thread(lambda: [codec.encode(text) for text in texts])

    def _unframed(self, tokens: list[int]) -> list[int]:
        return self._answering.model.codec.unframed(tokens)

    async def _likelihoods(self, pairs: Sequence[tuple[list[int], list[int]]]) -> list[float]:
        assert self._found is not None
        answering, adapter = self._found

        async def likelihood(prompt: list[int], target: list[int]) -> float:
            logprobs = await answering.model.engine.score([*prompt, *target], adapter=adapter)
            return mean_logprob(logprobs[-len(target) :])

        await answering.gate.embedding(sum(len(prompt) + len(target) for prompt, target in pairs))
        return await together(likelihood(*pair) for pair in pairs)
