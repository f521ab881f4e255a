"""`ServerFitting`: plans of dialogues that may be longer than the context, by the policy of the server or of the request.

What the guard has read is the whole request; what the model reads is a part of it, so nothing comes in that was not read.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, TypeVar, cast

from starlette.requests import Request

from deepwell.dialogue.dialogue import Dialogue, Plan, encode_dialogue, plan_dialogue
from deepwell.dialogue.model import PromptTooLong, ServedModel
from deepwell.errors import ContextLengthExceeded, InvalidRequest, ModelNotFound
from deepwell.knowledge.context.fitting.ledger import Ledger, LedgerPart
from deepwell.knowledge.context.fitting.policy import (
    FIT_OPTIONS,
    POLICIES,
    AdapterState,
    ContextPolicy,
    fit_options,
)
from deepwell.server.access.principal import Principal
from deepwell.server.access.ticket import current_ticket
from deepwell.server.fit_threads import FitThreads
from deepwell.server.observe.contexts import ContextMetrics, note_ledger
from deepwell.server.observe.record import Phase, current

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from deepwell.knowledge.context.fitting.fit import Fitted, Recalling
    from deepwell.knowledge.context.fitting.memories import Forgotten, Memories
    from deepwell.knowledge.protocols import Embedder
    from deepwell.server.knowledge import ServerKnowledge

__all__ = [
    "CHAT_ORIGIN",
    "CONSENT_HEADER",
    "NO_WISH",
    "POLICY_HEADER",
    "RESPONSE_ORIGIN",
    "FitWish",
    "ReadPrompt",
    "ServerFitting",
    "SessionAsked",
    "room_of",
    "wish_of",
]

POLICY_HEADER: Final = "x-context-policy"
CONSENT_HEADER: Final = "x-context-consent"
"""With `true`, the end user agrees that a session adapter is trained on the conversation."""

CHAT_ORIGIN: Final = "chat"
RESPONSE_ORIGIN: Final = "response"
"""Origins of conversations that have no id of their own."""

_log = logging.getLogger("deepwell.server")
_MOST_TOKENS: Final = 1 << 20  # of a conversation that is fitted
_AT_ONCE: Final = 2  # conversations that are fitted on threads of one process

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class FitWish:
    """Wishes of a request about its context.

    Attributes:
        policy: None: the server's.
        max_tokens: longest answer; None: the request names none.
        consent: whether an adapter may be trained on the conversation.
        store: whether it may be stored, as the request says; None: it does not say.
        origin: id of the conversation, or the kind of what keeps it, by which its adapter is dropped with it.
        adapter: adapter that the request names itself, by its name in the engine.
        parts: texts in place of attachments.
    """

    policy: ContextPolicy | None = None
    max_tokens: int | None = None
    consent: bool = False
    store: bool | None = None
    origin: str = ""
    adapter: str = ""
    parts: tuple[LedgerPart, ...] = ()


class SessionAsked(Protocol):
    """The adapters that conversations are trained into."""

    async def asked(
        self, model: ServedModel, principal: Principal, gone: Sequence[Forgotten], wish: FitWish
    ) -> tuple[AdapterState, str]:
        """Returns the state of the adapter for turns that have left the context, and its name in the engine if it is in use."""
        ...


@dataclass(frozen=True, slots=True)
class ReadPrompt:
    """A prompt that was made of passages and of whole messages.

    Attributes:
        messages, prompt: what the model reads, and its tokens.
        keeps: tells by the number of a message of the dialogue whether its whole text is in them.
    """

    messages: Sequence[Mapping[str, Any]]
    prompt: Sequence[int]
    keeps: Callable[[int], bool]


NO_WISH: Final = FitWish()
"""The wish of a request that says nothing."""


def wish_of(request: Request, max_tokens: int | None, *, policy: ContextPolicy | None = None) -> FitWish:
    """Returns what a request asks of its context: in the header, or else in its body, which `policy` is of.

    Raises:
        InvalidRequest: the header names no policy.
    """
    named = request.headers.get(POLICY_HEADER)
    consent = request.headers.get(CONSENT_HEADER, "").lower() == "true"
    if named is None:
        return FitWish(policy, max_tokens, consent)
    if named not in POLICIES:
        raise InvalidRequest.of(
            "context_policy_unknown", policy=named, known=", ".join(POLICIES), param=POLICY_HEADER
        )
    return FitWish(named, max_tokens, consent)


def room_of(model: ServedModel, plan: Plan, max_tokens: int | None, param: str) -> int:
    """Returns the number of tokens that may be generated behind a plan's prompt.

    A prompt with a window leaves as many as the context holds, unless the request names a number.

    Raises:
        ContextLengthExceeded: prompt and answer do not fit. The fix names the policies.
    """
    if plan.window is not None:
        return model.capabilities.max_model_len if max_tokens is None else max_tokens
    try:
        return model.room(len(plan.prompt), max_tokens, param)
    except ContextLengthExceeded as error:
        raise _naming_policies(error) from None


class ServerFitting:
    """Fits the dialogues of one HTTP process.

    Args:
        default: policy of requests that name none.
        embedder: name of the model that finds passages to recall.
        sessions: the adapters of conversations; None: nothing trains them.
    """

    def __init__(
        self,
        default: ContextPolicy,
        embedder: str,
        knowledge: Callable[[], ServerKnowledge],
        metrics: ContextMetrics,
        sessions: Callable[[], SessionAsked | None] = lambda: None,
    ) -> None:
        self._default: ContextPolicy = default
        self._embedder_name = embedder
        self._knowledge = knowledge
        self._metrics = metrics
        self._sessions = sessions
        self._memories: Memories | None = None
        self._threads = FitThreads(_AT_ONCE)
        self._told = False

    async def forget(self) -> None:
        """Drops all that is remembered of conversations: somebody's data were erased."""
        if self._memories is not None:
            self._memories.clear()

    def policy(self, wish: FitWish) -> ContextPolicy:
        """Returns the policy of a request."""
        return wish.policy or self._default

    async def plan(self, model: ServedModel, principal: Principal, dialogue: Dialogue, wish: FitWish) -> Plan:
        """Returns the plan of a dialogue, fitted to the context if its policy allows that, with its ledger.

        Raises as `plan_dialogue`.

        Raises:
            ContextLengthExceeded: what always stays whole does not fit.
        """
        plan = await self._plan(model, principal, dialogue, wish)
        return replace(plan, ledger=replace(plan.ledger, parts=wish.parts)) if wish.parts else plan

    async def _plan(
        self, model: ServedModel, principal: Principal, dialogue: Dialogue, wish: FitWish
    ) -> Plan:
        policy = self.policy(wish)
        if policy == "strict":
            try:
                plan = await plan_dialogue(model, dialogue, principal.caller)
            except PromptTooLong as error:
                raise _naming_policies(error) from None
            return replace(plan, ledger=Ledger.whole(policy, len(plan.prompt)))
        plan = await plan_dialogue(model, replace(dialogue, most_tokens=_MOST_TOKENS), principal.caller)
        room = _room(model, wish, policy)
        if len(plan.prompt) <= room:
            return replace(plan, ledger=Ledger.whole(policy, len(plan.prompt)))
        fitted = await self._fitted(model, principal, dialogue, plan.prompt, policy, room)
        whole = dialogue.messages
        if fitted.window is None:
            dialogue = replace(dialogue, messages=cast("Sequence[Mapping[str, Any]]", fitted.messages))
            plan = await plan_dialogue(model, dialogue, principal.caller)
        ledger, adapter = fitted.ledger, ""
        if policy == "adapter":
            ledger, adapter = await self._learnt(model, principal, whole, fitted.ledger, wish)
        # An answer to a similar question may not be given again: it would rest on other passages.
        return replace(plan, question=None, window=fitted.window, ledger=ledger, adapter=adapter)

    async def _learnt(
        self,
        model: ServedModel,
        principal: Principal,
        whole: Sequence[Mapping[str, Any]],
        ledger: Ledger,
        wish: FitWish,
    ) -> tuple[Ledger, str]:
        """Returns the ledger with the state of the conversation's adapter, and its name in the engine if it is in use.

        Args:
            whole: the messages of the request.
        """
        from deepwell.knowledge.context.fitting.layout import text_of
        from deepwell.knowledge.context.fitting.memories import Forgotten

        sessions = self._sessions()
        gone = [
            Forgotten(row.role, text)
            for row in ledger.messages
            if row.fates.only == "dropped" and (text := text_of(whole[row.first])) is not None
        ]
        if sessions is None or not gone:
            return ledger, ""
        state, adapter = await sessions.asked(model, principal, gone, wish)
        return replace(ledger, adapter=state, mechanism="adapter" if adapter else "drop"), adapter

    async def shortened(
        self, model: ServedModel, principal: Principal, dialogue: Dialogue, wish: FitWish
    ) -> tuple[Dialogue, Ledger]:
        """Returns a dialogue that leaves half of the room for passages, and its ledger; the same one under `strict`.

        The last user message stays as it is but for a long document in it, so that it can be searched for.
        """
        policy = self.policy(wish)
        prompt = await encode_dialogue(model, dialogue, _MOST_TOKENS)
        room = _room(model, wish, policy)
        whole = replace(Ledger.whole(policy, len(prompt)), parts=wish.parts)
        if policy == "strict" or len(prompt) <= room // 2:
            return dialogue, whole
        try:
            fitted = await self._fitted(model, principal, dialogue, prompt, "compress", room // 2)
        except ContextLengthExceeded:
            if len(prompt) > room:
                raise
            return dialogue, whole  # few passages are better than no answer
        ledger = replace(fitted.ledger, policy=policy, parts=wish.parts)
        messages = cast("Sequence[Mapping[str, Any]]", fitted.messages)
        return replace(dialogue, messages=messages), ledger

    async def searched(
        self,
        model: ServedModel,
        dialogue: Dialogue,
        ledger: Ledger,
        read: tuple[Sequence[Mapping[str, Any]], Sequence[int]] | None,
    ) -> Ledger:
        """Returns the ledger of a dialogue that passages were added to.

        Args:
            dialogue, ledger: as `shortened` returned them.
            read: the messages with the passages, and their prompt; None: no model reads them.
        """
        from deepwell.knowledge.context.fitting.account import account, beside, quoted

        if read is None:
            return replace(quoted(ledger.policy, ledger.original_tokens), parts=ledger.parts)
        messages, prompt = read
        if ledger.messages:
            return await asyncio.to_thread(beside, ledger, messages, prompt, codec=model.codec)
        original = await encode_dialogue(model, dialogue, _MOST_TOKENS)
        said = dialogue.messages
        found = await asyncio.to_thread(
            account, ledger.policy, said, original, messages, prompt, codec=model.codec, keeps=lambda _: True
        )
        return replace(found, parts=ledger.parts)

    async def compressed(
        self, model: ServedModel, principal: Principal, texts: Sequence[str], query: str
    ) -> tuple[Sequence[str], int]:
        """Returns the best sentences of texts, in a quarter of the context, and the number of their tokens."""
        if not texts:
            return (), 0
        home = asyncio.get_running_loop()
        embedder = await self._embedder("compress", home)
        budget = max(model.capabilities.max_model_len // 4, 1)

        async def work() -> tuple[Sequence[str], int]:
            from deepwell.knowledge.context.compress import compress
            from deepwell.knowledge.context.fitting.question import read_turn
            from deepwell.knowledge.context.fitting.texts import nearest
            from deepwell.knowledge.context.tokens import CodecTokens

            scorer, question = nearest(embedder).scorer, read_turn(query).query
            found = await compress(texts, question, budget, tokens=CodecTokens(model.codec), scorer=scorer)
            return found.texts, found.tokens

        return await self._threads.run(principal.tenant, work)

    def note(self, ledger: Ledger) -> None:
        """Enters a ledger into the request's record and the metrics."""
        note_ledger(ledger, self._metrics)
        if ledger.policy != "strict" and (ticket := current_ticket()) is not None:
            ticket.replayable = False  # only what is kept whole is replayed

    def note_whole(self, tokens: int) -> None:
        """Enters the ledger of prompts that are no conversation: they run as they stand, or are refused."""
        self.note(Ledger.whole("strict", tokens))

    async def grounded(
        self, model: ServedModel, dialogue: Dialogue, wish: FitWish, read: ReadPrompt | None
    ) -> Ledger:
        """Returns the ledger of a dialogue that is answered from passages.

        Args:
            read: the prompt with the passages; None: no model has read the dialogue.
        """
        from deepwell.knowledge.context.fitting.account import account, quoted

        policy = self.policy(wish)
        prompt = await encode_dialogue(model, dialogue, _MOST_TOKENS)
        if read is None:
            return replace(quoted(policy, len(prompt)), parts=wish.parts)
        found = await asyncio.to_thread(
            account,
            policy,
            dialogue.messages,
            prompt,
            read.messages,
            read.prompt,
            codec=model.codec,
            keeps=read.keeps,
        )
        return replace(found, parts=wish.parts)

    async def _fitted(
        self,
        model: ServedModel,
        principal: Principal,
        dialogue: Dialogue,
        prompt: Sequence[int],
        policy: ContextPolicy,
        room: int,
    ) -> Fitted:
        from deepwell.knowledge.context.fitting.fit import FitModel, Fitter

        begin = time.perf_counter()
        home = asyncio.get_running_loop()
        recalls = policy not in ("window", "adapter")
        recalling = await self._recalling(model, principal, policy, home) if recalls else None

        async def render(messages: Sequence[Mapping[str, Any]]) -> list[int]:
            work = encode_dialogue(model, replace(dialogue, messages=messages), _MOST_TOKENS)
            return await _at_home(work, home)

        described = FitModel(
            model.codec, render, model.capabilities.max_model_len, windows=model.capabilities.generates
        )
        options = fit_options(model.capabilities.weights_bytes)
        fitter = Fitter(described, room, recalling=recalling, options=options)
        param = dialogue.params.get("messages", "messages")
        try:
            fitted = await self._threads.run(
                principal.tenant, lambda: fitter.fit(dialogue.messages, prompt, policy)
            )
        except ContextLengthExceeded as error:
            error.param = param
            raise
        end = time.perf_counter()
        self._metrics.seconds.labels(fitted.ledger.mechanism).observe(end - begin)
        if (record := current()) is not None:
            attributes = {"deepwell.context.mechanism": fitted.ledger.mechanism}
            record.phases.append(Phase("fit", begin, end, attributes))
        return fitted

    async def _recalling(
        self,
        model: ServedModel,
        principal: Principal,
        policy: ContextPolicy,
        home: asyncio.AbstractEventLoop,
    ) -> Recalling | None:
        """Returns what recalls passages. Without an embedder `auto` and `compress` go by words alone.

        Raises:
            ModelNotFound: the policy is `retrieve`, and there is no embedder.
        """
        from deepwell.knowledge.context.fitting.fit import Recalling
        from deepwell.knowledge.context.fitting.memories import Memories, MemoryKey

        embedder = await self._embedder(policy, home)
        if embedder is None:
            return None
        if self._memories is None:
            self._memories = Memories()
        return Recalling(self._memories, MemoryKey(principal.tenant, model.name), embedder)

    async def _embedder(self, policy: ContextPolicy, home: asyncio.AbstractEventLoop) -> Embedder | None:
        """Returns the embedder, for work on another thread; None if it is not in the store. Raises as `_recalling`."""
        try:
            embedder = await self._knowledge().embedders.named(self._embedder_name)
        except ModelNotFound as error:
            if policy == "retrieve":
                raise
            if not self._told:
                self._told = True
                _log.warning("long conversations are compressed by their words alone: %s", error)
            return None
        return _HomeEmbedder(embedder, home)


def _naming_policies(error: ContextLengthExceeded) -> ContextLengthExceeded:
    """Returns an error of a prompt that does not fit, in the route's own name for it, with the policies as its fix."""
    key, values = error.texts
    named = {**values, "where": error.param or values["where"]}
    return ContextLengthExceeded.of(f"{key}_policies", param=error.param, **named)


def _room(model: ServedModel, wish: FitWish, policy: ContextPolicy) -> int:
    context = model.capabilities.max_model_len
    return context - FIT_OPTIONS.answer_room(wish.max_tokens, context, policy)


async def _at_home(work: Coroutine[Any, Any, T], home: asyncio.AbstractEventLoop) -> T:
    """Runs work on another event loop, and waits for it on this one."""
    return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, home))


class _HomeEmbedder:
    """An embedder of one event loop, for work on another."""

    def __init__(self, embedder: Embedder, home: asyncio.AbstractEventLoop) -> None:
        self._embedder = embedder
        self._home = home
        self.name, self.hash, self.dimensions = embedder.name, embedder.hash, embedder.dimensions

    @property
    def max_tokens(self) -> int:
        return self._embedder.max_tokens

    def count(self, texts: Sequence[str]) -> list[int]:
        return self._embedder.count(texts)

    async def embed(
        self, texts: Sequence[str], input_type: Literal["query", "passage"]
    ) -> NDArray[np.float32]:
        return await _at_home(self._embedder.embed(texts, input_type), self._home)
