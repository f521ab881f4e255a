"""The rounds of an answer with tools of MCP servers: the model calls, the server runs the calls, and the model goes on."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from deepwell.agents.mcp.client import McpFailed
from deepwell.agents.mcp.schemas import arguments_problem
from deepwell.dialogue.completion import Counts
from deepwell.dialogue.dialogue import Call, Dialogue, Turn, new_call_id
from deepwell.dialogue.parsers.events import CallArguments, CallStart, Content, Event, Reasoning
from deepwell.server.families.responses.mcp.kept import error_text, execution_error
from deepwell.server.families.responses.mcp.offers import McpOffers, Offer, Sessions
from deepwell.server.families.responses.mcp.parts import McpAsked, McpBegun, McpEnded, McpPart
from deepwell.server.guarding.requests import language_of

if TYPE_CHECKING:
    from deepwell.server.context import ServerContext
    from deepwell.server.guarding.guard import ServerGuard

__all__ = ["Approved", "McpRun", "Turns"]

MOST_ROUNDS: Final = 8
"""Rounds of calls of one answer. The model answers without tools after them."""

MOST_CALLS: Final = 32

Turns = AsyncGenerator[Turn, None]


@dataclass(frozen=True, slots=True)
class Approved:
    """A call that a person has approved, and the id of the request for it."""

    request_id: str
    offer: Offer
    arguments: str


@dataclass(slots=True)
class _Round:
    """One answer of the model."""

    calls: list[Call] = field(default_factory=list[Call])  # of tools of MCP servers
    functions: bool = False
    content: str = ""
    reasoning: str = ""
    reason: str | None = None
    numbers: dict[int, Call] = field(default_factory=dict[int, Call])
    counts: Counts = field(default_factory=Counts)

    def take(self, event: Event, offered: McpOffers) -> bool:
        """Notes an event, and returns whether it belongs to the response as it is."""
        match event:
            case CallStart(index, name) if name in offered.offers:
                call = self.numbers[index] = Call(new_call_id(), name)
                self.calls.append(call)
                return False
            case CallArguments(index, text) if index in self.numbers:
                self.numbers[index].arguments += text
                return False
            case CallStart():
                self.functions = True
            case Content(text):
                self.content += text
            case Reasoning(text):
                self.reasoning += text
            case _:
                pass
        return True


@dataclass(slots=True)
class McpRun:
    """The rounds of one answer.

    Attributes:
        dialogue: what the model has been told.
        approved: calls that are made before the model is asked.
        converse: returns the turns of the model's answer to a dialogue, with the tokens used so far.
        most_calls: calls that are made at most.
    """

    context: ServerContext
    guard: ServerGuard | None
    tenant: str
    offers: McpOffers
    dialogue: Dialogue
    approved: Sequence[Approved]
    converse: Callable[[Dialogue, int, int], Awaitable[Turns]]
    most_calls: int = MOST_CALLS
    _made: int = field(default=0, init=False)
    _used: Counts = field(default_factory=Counts, init=False)

    async def parts(self, first: Turns) -> AsyncGenerator[Turn | McpPart, None]:
        """Yields the parts of the answer. `first` are the turns of the first round, which are not begun if calls come first."""
        for listed in self.offers.listed:
            yield listed
        async with self.offers.sessions(self.context) as sessions:
            turns: Turns = first
            if self.approved:
                await first.aclose()
                for one in self.approved:
                    call = Call(new_call_id(), one.offer.function.name, one.arguments)
                    async with aclosing(self._call(sessions, call, _Round(), one.request_id)) as parts:
                        async for part in parts:
                            yield part
                turns = await self.converse(self._next(0), 0, 0)
            for number in range(MOST_ROUNDS + 1):
                said = _Round()
                async with aclosing(self._said(turns, said)) as shown:
                    async for turn in shown:
                        yield turn
                self._count(said.counts)
                if not said.calls:
                    return
                waits = False
                for call in said.calls:
                    offer = self.offers.offers[call.name]
                    if said.reason in ("length", "content_filter"):
                        if said.reason == "length":
                            yield McpBegun(offer.label, offer.tool.name, call.arguments, cut=True)
                    elif offer.approval:
                        waits = True
                        yield McpAsked(offer.label, offer.tool.name, call.arguments)
                    elif self._made < self.most_calls:
                        async with aclosing(self._call(sessions, call, said)) as parts:
                            async for part in parts:
                                yield part
                if waits or said.functions or said.reason in ("length", "content_filter"):
                    cut = said.reason in ("length", "content_filter")
                    reason: Any = said.reason if cut else "tool_calls"
                    yield Turn(0, (), finish_reason=reason, counts=self._used)
                    return
                turns = await self.converse(self._next(number + 1), number + 1, self._used.completion)

    def _next(self, rounds: int) -> Dialogue:
        """Returns the dialogue of the next round. No call is asked for twice, and the last answer makes none."""
        over = rounds >= MOST_ROUNDS or self._made >= self.most_calls
        return replace(self.dialogue, tool_choice="none" if over else "auto")

    async def _said(self, turns: Turns, said: _Round) -> AsyncGenerator[Turn, None]:
        """Yields the turns of a round without its calls of MCP tools."""
        async with aclosing(turns):
            async for turn in turns:
                kept = tuple(event for event in turn.events if said.take(event, self.offers))
                said.counts = turn.counts
                said.reason = turn.finish_reason or said.reason
                reason = None if said.calls else turn.finish_reason
                yield replace(turn, events=kept, finish_reason=reason, counts=_sum(self._used, turn.counts))

    def _count(self, counts: Counts) -> None:
        self._used = _sum(self._used, counts)

    async def _call(
        self, sessions: Sessions, call: Call, said: _Round, request_id: str | None = None
    ) -> AsyncGenerator[McpPart, None]:
        """Makes a call, tells of it, and adds it to the dialogue. The guard reads the result before the model does."""
        offer = self.offers.offers[call.name]
        self._made += 1
        yield McpBegun(offer.label, offer.tool.name, call.arguments, request_id)
        ended = await self._result(sessions, offer, call.arguments)
        read = ended.output if ended.error is None else f"error: {error_text(ended.error)}"
        self.context.metrics.mcp.remote_calls.labels("done" if ended.error is None else "failed").inc()
        told = await self._checked(read or "")
        if ended.error is None:
            ended = replace(ended, output=told)
        elif told != read:
            ended = McpEnded(error=execution_error(told))
        self._remember(call, told, said)
        yield ended

    async def _result(self, sessions: Sessions, offer: Offer, text: str) -> McpEnded:
        try:
            arguments = json.loads(text or "{}")
        except (ValueError, RecursionError):
            return McpEnded(error=execution_error("the arguments are no JSON"))
        if problem := arguments_problem(offer.tool.schema, arguments):
            return McpEnded(error=execution_error(problem))
        try:
            result = await sessions.of(offer.label).call(offer.tool.name, arguments)
        except McpFailed as error:
            shown = {"type": "mcp_protocol_error", "code": error.error_code, "message": error.message}
            return McpEnded(error=shown)
        return McpEnded(error=execution_error(result.text)) if result.failed else McpEnded(result.text)

    async def _checked(self, text: str) -> str:
        """Returns a result as the guard lets the model and the client see it."""
        if self.guard is None or not text:
            return text
        return await self.guard.foreign(text, self.tenant, language_of(text))

    def _remember(self, call: Call, result: str, said: _Round) -> None:
        function = {"name": call.name, "arguments": call.arguments}
        asked: dict[str, Any] = {
            "role": "assistant",
            "content": said.content or None,
            "tool_calls": [{"id": call.id, "type": "function", "function": function}],
        }
        if said.reasoning:
            asked["reasoning_content"] = said.reasoning
        said.content = said.reasoning = ""  # they stand in front of the first call
        answer = {"role": "tool", "tool_call_id": call.id, "content": result}
        self.dialogue = replace(self.dialogue, messages=[*self.dialogue.messages, asked, answer])


def _sum(one: Counts, other: Counts) -> Counts:
    return Counts(
        one.prompt + other.prompt,
        one.cached + other.cached,
        one.completion + other.completion,
        one.accepted + other.accepted,
        one.forgotten + other.forgotten,
    )
