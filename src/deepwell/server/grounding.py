"""`planned`: the plan of a dialogue, whose answer rests on the server's knowledge base where one is set.

With `serve --knowledge NAME`, clients that know nothing of tools get grounded answers: the passages are searched for the last
user message, every sentence is checked, and the cited sources are listed at the end. A request with tools, a format, several
choices or log probabilities is answered by the model alone, because checked sentences would not be what it asks for.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from deepwell.dialogue.completion import Choice
from deepwell.dialogue.dialogue import Dialogue, Plan, Turn
from deepwell.dialogue.parsers.events import Content
from deepwell.errors import NotFound
from deepwell.server.access.principal import Principal
from deepwell.server.answering import Answering
from deepwell.server.attachments.passages import Material
from deepwell.server.attachments.wording import own_words
from deepwell.server.context import ServerContext
from deepwell.server.fitting import NO_WISH, FitWish, ReadPrompt
from deepwell.server.guarding.checked import Checked
from deepwell.server.guarding.grounds import Grounds
from deepwell.server.reranking import reranker_of
from deepwell.server.writing import ServedWriter
from deepwell.storage.database import LOCAL, Tenant
from deepwell.storage.knowledge.stores import StoredStore

if TYPE_CHECKING:
    from deepwell.knowledge.answer.cite import GroundedAnswer
    from deepwell.knowledge.answer.ledger import GroundedPrompt
    from deepwell.knowledge.context.fitting.ledger import Ledger
    from deepwell.knowledge.documents import Passage

__all__ = ["planned"]

_MOST_TOKENS = 512  # of an answer: longer ones of small models leave their passages


async def planned(
    context: ServerContext,
    answering: Answering,
    adapter: str,
    principal: Principal,
    dialogue: Dialogue,
    wish: FitWish = NO_WISH,
    *,
    before: Checked | None = None,
) -> Plan:
    """Returns the plan of a dialogue, fitted to the context as the request or the server wants it.

    Args:
        before: the guard's note of a part of the request that it has read already.

    Raises as `ServerFitting.plan`.
    """
    guard, checked = answering.guard, None
    if guard is not None:
        dialogue, checked = await guard.read(dialogue, principal.tenant, before)
    wish = replace(wish, adapter=adapter)
    plan = await context.fitting.plan(answering.model, principal, dialogue, wish)
    ledger: Ledger = plan.ledger
    if guard is not None and checked is not None:
        plan = guard.sealed(plan, checked)
    messages = _texts(dialogue)
    if context.options.knowledge.ground is None or messages is None or plan.answers is not None:
        # A prompt that is refused next has no account.
        most = answering.model.capabilities.max_model_len - (wish.max_tokens or 1)
        if ledger.prompt_tokens <= most or plan.window is not None:
            context.fitting.note(ledger)
        return plan
    grounded = _Grounded(context, answering, adapter, principal, replace(dialogue, messages=messages), wish)
    grounded.checked = checked

    def answers(choices: Sequence[Choice]) -> AsyncGenerator[Turn, None]:
        # An answer to a similar question may not be given again: it would rest on other passages.
        if len(choices) > 1 or choices[0].request.params.logprobs is not None:
            context.fitting.note(ledger)
            # The guard reads what comes of this function, and need not read it twice.
            return answering.converse(replace(plan, question=None, checked=Checked.part()), choices)
        if checked is not None:
            checked.grounds = Grounds()  # filled in with the passages that the answer turns out to rest on
        return grounded.turns(choices[0])

    return replace(plan, question=None, answers=answers)


def _texts(dialogue: Dialogue) -> list[dict[str, str]] | None:
    """Returns the conversation as plain text, or None if it is more than that or asks for more."""
    messages = dialogue.messages
    plain = all(
        one.get("role") in ("system", "developer", "user", "assistant")
        and isinstance(one.get("content"), str)
        for one in messages
    )
    if dialogue.tools or dialogue.format is not None or not plain or not messages:
        return None
    last = messages[-1]
    if last["role"] != "user" or not own_words(last["content"]):
        return None
    return [{"role": one["role"], "content": one["content"]} for one in messages]


class _Grounded:
    """The answer of one request from the server's knowledge base. `checked` is the guard's, if there is one."""

    checked: Checked | None = None

    def __init__(
        self,
        context: ServerContext,
        answering: Answering,
        adapter: str,
        principal: Principal,
        dialogue: Dialogue,
        wish: FitWish,
    ) -> None:
        self._context = context
        self._answering = answering
        self._adapter = adapter
        self._principal = principal
        self._dialogue = dialogue
        self._messages = cast("list[dict[str, str]]", dialogue.messages)
        self._wish = wish

    async def turns(self, choice: Choice) -> AsyncGenerator[Turn, None]:
        """Yields checked sentences, then the list of cited sources."""
        from deepwell.knowledge.answer.cite import GroundedAnswer
        from deepwell.knowledge.answer.grounded import AnswerOptions, stream_answer
        from deepwell.knowledge.search import SearchOptions

        knowledge = self._context.knowledge
        tenant, store = await self._store()
        embedder = await knowledge.embedders.of_store(store)
        material = await Material.of(self._messages, embedder)
        self._messages[-1] = {**self._messages[-1], "content": material.question}
        writer = ServedWriter(
            self._answering, choice.request.request_id, self._principal.caller, self._adapter
        )

        async def search(query: str, limit: int) -> list[Passage]:
            reranker = reranker_of(self._context, self._principal.tenant)
            options = SearchOptions(limit, min_score=knowledge.options.min_score, reranker=reranker)
            found = await knowledge.search(tenant, store.id, query, options)
            guard = self._answering.guard
            if guard is not None and self.checked is not None:
                found = await guard.passages(found, self.checked)
            return [*material.earlier, *found]  # the guard has read attachments with their message

        limit = choice.request.params.max_tokens
        strict = self._context.fitting.policy(self._wish) == "strict"
        options = AnswerOptions(answer_tokens=min(limit, _MOST_TOKENS), turns="all" if strict else "newest")
        prompts: list[GroundedPrompt] = []
        parts: AsyncGenerator[Any, None] = stream_answer(
            self._messages, search, writer, embedder, options, given=material.new, assembled=prompts.append
        )
        ledger: Ledger | None = None
        async with aclosing(parts):
            async for part in parts:
                if ledger is None:  # before the first headers leave
                    ledger = await self._account(prompts, writer.prompt)
                if not isinstance(part, GroundedAnswer):
                    yield Turn(choice.index, (Content(part.text),))
                    continue
                knowledge.answered(part)
                if self.checked is not None and not part.declined:
                    self.checked.grounds = Grounds(part.query, part.passages, embedder)
                text = part.text if part.declined else _sources(part)
                yield Turn(
                    choice.index,
                    (Content(text),) if text else (),
                    finish_reason="stop",
                    counts=writer.counts,
                    ledger=ledger,
                )

    async def _account(self, prompts: Sequence[GroundedPrompt], tokens: Sequence[int]) -> Ledger:
        """Enters the ledger of the answer. It rests on at most one prompt."""
        read = None
        if prompts:
            made, messages = prompts[0], self._messages
            last = len(messages) - 1

            def keeps(index: int) -> bool:
                if messages[index]["role"] in ("system", "developer"):
                    return True
                if index < last:
                    return index in made.turns
                return messages[last]["content"] in made.messages[-1]["content"]

            read = ReadPrompt(made.messages, tokens, keeps)
        fitting = self._context.fitting
        ledger = await fitting.grounded(self._answering.model, self._dialogue, self._wish, read)
        fitting.note(ledger)
        return ledger

    async def _store(self) -> tuple[Tenant, StoredStore]:
        """Returns the knowledge base: the tenant's own of that name, else the one that the operator made for all.

        Raises:
            NotFound: there is none of that name.
        """
        name = self._context.options.knowledge.ground or ""
        stores = self._context.state.knowledge.stores
        for tenant in dict.fromkeys((self._principal.tenant, LOCAL)):
            try:
                return tenant, await stores.named(tenant, name)
            except NotFound:
                continue
        raise NotFound(
            f"the server's knowledge base {name!r} is gone",
            fix=f"run `deepwell knowledge create {name}` and fill it, or start the server without --knowledge",
        )


def _sources(answer: GroundedAnswer) -> str:
    """Returns the list of the cited passages, as it stands below an answer."""
    from deepwell.knowledge.chunk import place_text

    numbers = sorted({one.number for one in answer.citations})
    lines: list[str] = []
    for number in numbers:
        passage = answer.passages[number - 1]
        place = place_text(passage.place)
        lines.append(f"[{number}] {passage.filename}{', ' if place else ''}{place}")
    return "\n\n" + "\n".join(lines) if lines else ""
