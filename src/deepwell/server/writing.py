"""`ServedWriter`: a served model as the writer of knowledge, through admission, limits and meters."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace

from deepwell.dialogue.completion import Caller, Counts
from deepwell.dialogue.dialogue import Dialogue, plan_dialogue
from deepwell.dialogue.model import SamplingOptions
from deepwell.dialogue.parsers.events import Content
from deepwell.engine.protocol import Grammar
from deepwell.server.answering import Answering
from deepwell.server.guarding.checked import Checked
from deepwell.server.together import together

__all__ = ["ServedWriter"]


class ServedWriter:
    """Writes for one request. Its tokens count against the limits of the caller.

    Attributes:
        prompt: tokens of the prompt that was written for last.
    """

    def __init__(self, answering: Answering, id: str, caller: Caller, adapter: str = "") -> None:
        """Writes with a served model. `id` is the request's, which the engine's log shows."""
        self.name = answering.model.name
        self._answering = answering
        self._id = id
        self._caller = caller
        self._adapter = adapter
        self._calls = 0
        self._ended: list[Counts] = []
        self.prompt: Sequence[int] = ()

    @property
    def counts(self) -> Counts:
        """Tokens of all that was written so far, prompts included."""
        prompt, cached, completion, accepted = (
            sum(getattr(one, name) for one in self._ended)
            for name in ("prompt", "cached", "completion", "accepted")
        )
        return Counts(prompt, cached, completion, accepted)

    @property
    def context_tokens(self) -> int:
        """The length of the model's context."""
        return self._answering.model.capabilities.max_model_len

    def count(self, text: str) -> int:
        """Returns the number of tokens of a text."""
        codec = self._answering.model.codec
        return len(codec.unframed(codec.encode(text)))

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
        pieces = self._pieces(messages, max_tokens, temperature, regex)
        return "".join([piece async for piece in pieces])

    def stream(
        self, messages: Sequence[Mapping[str, str]], *, max_tokens: int, temperature: float = 0.0
    ) -> AsyncGenerator[str, None]:
        """Yields the answer in pieces. Closing the iterator ends the request."""
        return self._pieces(messages, max_tokens, temperature)

    async def _pieces(
        self,
        messages: Sequence[Mapping[str, str]],
        max_tokens: int,
        temperature: float,
        regex: str | None = None,
    ) -> AsyncGenerator[str, None]:
        model, self._calls = self._answering.model, self._calls + 1
        format = None if regex is None else Grammar("regex", regex)
        plan = await plan_dialogue(model, Dialogue(messages, format=format), self._caller)
        self.prompt = plan.prompt
        # A similar question that was asked before may not answer for this one: its passages were others.
        plan = replace(plan, question=None, checked=Checked.part())
        limit = model.room(len(plan.prompt), max_tokens, "messages")
        options = SamplingOptions(temperature=temperature)
        params = replace(model.sampling(options, limit, logprobs=None), grammar=plan.grammar)
        id = f"{self._id}-w{self._calls}"
        choices = plan.choices(id, params, caller=self._caller, adapter=self._adapter)
        async with aclosing(self._answering.converse(plan, choices)) as turns:
            async for turn in turns:
                if text := "".join(event.text for event in turn.events if isinstance(event, Content)):
                    yield text
                if turn.finish_reason is not None:
                    self._ended.append(turn.counts)

    async def choose(self, messages: Sequence[Mapping[str, str]], choices: Sequence[str]) -> list[float]:
        """Returns the log-likelihood of every choice as the answer, without the token that would end it."""
        model = self._answering.model
        plan = await plan_dialogue(model, Dialogue(messages), self._caller)
        spelt = [model.codec.unframed(model.codec.encode(choice)) for choice in choices]

        async def likelihood(tokens: list[int]) -> float:
            scores = await model.engine.score([*plan.prompt, *tokens], adapter=self._adapter)
            return float(scores[-len(tokens) :].sum(dtype="float64"))

        await self._answering.gate.embedding(len(plan.prompt) * len(spelt) + sum(map(len, spelt)))
        return await together(likelihood(tokens) for tokens in spelt)
