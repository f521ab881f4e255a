"""`LLMEmbedder`, `LLMReranker`, `LLMWriter`: models of this process in the roles that knowledge needs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

from deepwell.errors import InvalidRequest
from deepwell.knowledge.rerank import LikelihoodReranker

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from deepwell.llm import AsyncLLM

__all__ = ["LLMEmbedder", "LLMReranker", "LLMWriter"]

_WINDOWS = "mean of windows, 1"  # how a text becomes one vector; another way is another hash
_AT_ONCE = 64  # texts that are tokenised and embedded together
_SEEN_CHOICES = 20  # alternatives whose log probabilities one step reports


class LLMEmbedder:
    """An embedder made of an encoder that is open in this process. It does not close the model.

    The hash covers weights, precision, configuration (the pooling is part of it), the prompts, and how long texts are cut.

    Args:
        llm: the open encoder.

    Raises:
        InvalidRequest: the model is no encoder. Vectors of a decoder do not serve retrieval.
    """

    def __init__(self, llm: AsyncLLM) -> None:
        runs = llm.capabilities
        if runs.generates:
            raise InvalidRequest(
                f"{llm.name} writes text and is no embedding model",
                fix="use an encoder such as e5-small-q4 or minilm",
                param="embedder",
            )
        self._llm = llm
        self.name = llm.name
        self.dimensions = runs.hidden_size
        self.kernels = runs.isa
        prompts = {kind: llm.prompts.get(kind, "") for kind in ("query", "passage")}
        self._prompt_tokens = {
            kind: llm.unframed(llm.encode(text)) if text else [] for kind, text in prompts.items()
        }
        identity = json.dumps([runs.weights_hash, prompts, _WINDOWS], sort_keys=True, ensure_ascii=False)
        self.hash = hashlib.sha256(identity.encode()).hexdigest()[:32]
        self._prompts = {**prompts, "plain": ""}
        self._prompt_tokens["plain"] = []
        self._window = llm.context - len(llm.framed([]))

    @property
    def max_tokens(self) -> int:
        """The most tokens of a passage that are embedded at once, without the prompt and the tokens around it."""
        return self._window - max(map(len, self._prompt_tokens.values()))

    def count(self, texts: Sequence[str]) -> list[int]:
        """Returns the number of tokens of every text, without the prompt and the tokens around it."""
        return [len(self._llm.unframed(self._llm.encode(text))) for text in texts]

    async def embed(
        self, texts: Sequence[str], input_type: Literal["query", "passage", "plain"]
    ) -> NDArray[np.float32]:
        """Returns one vector of unit length a text, as float32 [texts, dimensions]. "plain" puts no prompt in front.

        A text that is too long is cut into windows of nearly equal length, each behind the prompt; its vector is the mean of
        theirs, weighted by tokens and scaled to unit length.
        """
        import numpy as np

        found = np.empty((len(texts), self.dimensions), np.float32)
        for start in range(0, len(texts), _AT_ONCE):
            part = texts[start : start + _AT_ONCE]
            windows = [await self._windows(text, input_type) for text in part]
            vectors = await self._llm.embed([self._llm.framed(one) for many in windows for one in many])
            first = 0
            for number, many in enumerate(windows, start):
                weights = np.array([len(one) for one in many], np.float32)
                mean = weights @ vectors[first : first + len(many)]
                found[number] = mean / max(float(np.linalg.norm(mean)), 1e-12)
                first += len(many)
        return found

    async def _windows(self, text: str, input_type: Literal["query", "passage", "plain"]) -> list[list[int]]:
        """Returns the tokens of the windows of a text, each with the prompt in front."""
        llm = self._llm
        whole = llm.unframed(await llm.tokenize(self._prompts[input_type] + text))
        if len(whole) <= self._window:
            return [whole]
        prompt = self._prompt_tokens[input_type]
        inner = whole[len(prompt) :]
        room = self._window - len(prompt)
        count = -(-len(inner) // room)
        edges = [len(inner) * edge // count for edge in range(count + 1)]
        return [prompt + inner[a:b] for a, b in pairwise(edges)]


class LLMReranker(LikelihoodReranker):
    """A reranker made of a language model that is open in this process. It does not close the model.

    Raises:
        InvalidRequest: the model is an encoder, which has no likelihoods.
    """

    def __init__(self, llm: AsyncLLM) -> None:
        if not llm.capabilities.generates:
            raise InvalidRequest(
                f"{llm.name} is an encoder: it has no likelihoods to rerank by",
                fix="use a model that generates text, such as smollm2 or qwen2.5-coder-0.5b",
                param="rerank",
            )
        self._llm = llm
        self.name = llm.name

    @property
    def _context_tokens(self) -> int:
        return self._llm.context

    async def _encoded(self, texts: Sequence[str]) -> list[list[int]]:
        return [await self._llm.tokenize(text) for text in texts]

    def _unframed(self, tokens: list[int]) -> list[int]:
        return self._llm.unframed(tokens)

    async def _likelihoods(self, pairs: Sequence[tuple[list[int], list[int]]]) -> list[float]:
        return [score.mean for score in await self._llm.score(pairs)]


class LLMWriter:
    """A writer made of a chat model that is open in this process. It does not close the model.

    Raises:
        InvalidRequest: the model is an encoder.
    """

    def __init__(self, llm: AsyncLLM) -> None:
        if not llm.capabilities.generates:
            raise InvalidRequest(
                f"{llm.name} is an encoder: it embeds text and writes none",
                fix="use a chat model such as qwen2.5-coder-0.5b",
                param="model",
            )
        self._llm = llm
        self.name = llm.name

    def count(self, text: str) -> int:
        """Returns the number of tokens of a text."""
        return len(self._llm.unframed(self._llm.encode(text)))

    @property
    def context_tokens(self) -> int:
        """The length of its context."""
        return self._llm.context

    async def write(
        self,
        messages: Sequence[Mapping[str, str]],
        *,
        max_tokens: int,
        temperature: float = 0.0,
        regex: str | None = None,
    ) -> str:
        """Returns the whole answer. `regex` constrains it.

        Raises:
            ContextLengthExceeded: the conversation and `max_tokens` do not fit.
        """
        answer = await self._llm.chat(
            list(messages), max_tokens=max_tokens, temperature=temperature, regex=regex
        )
        return answer.text

    async def stream(
        self, messages: Sequence[Mapping[str, str]], *, max_tokens: int, temperature: float = 0.0
    ) -> AsyncGenerator[str, None]:
        """Yields the answer in pieces. Closing the iterator aborts the request."""
        pieces = await self._llm.chat(
            list(messages), max_tokens=max_tokens, temperature=temperature, stream=True
        )
        async with pieces:
            async for piece in pieces:
                if piece.text:
                    yield piece.text

    async def choose(self, messages: Sequence[Mapping[str, str]], choices: Sequence[str]) -> list[float]:
        """Returns the log-likelihood of every choice as the answer, without the token that would end it.

        Choices of one token each are read from one step. Others are scored in full.
        """
        prompt = await self._llm.tokenize(list(messages))
        spelt = [self._llm.unframed(await self._llm.tokenize(choice)) for choice in choices]
        if all(len(tokens) == 1 for tokens in spelt):
            step = await self._llm.generate(prompt, max_tokens=1, temperature=0.0, logprobs=_SEEN_CHOICES)
            if seen := _likelihoods(step.logprobs, choices):
                return seen
        scores = await self._llm.score([(prompt, tokens) for tokens in spelt])
        return [score.sum for score in scores]


def _likelihoods(step: Any, choices: Sequence[str]) -> list[float]:
    """Returns the log probabilities of one token's alternatives; empty if a choice is not among them."""
    if not step:
        return []
    top = dict(step[0].top) | {step[0].text: step[0].logprob}
    return [top[choice] for choice in choices] if all(choice in top for choice in choices) else []
