"""`AnswerReader`: reads the answers of a model while they are written, and as a whole where the policy asks for that."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Final

from deepwell.dialogue.completion import Counts
from deepwell.dialogue.dialogue import Turn
from deepwell.dialogue.parsers.events import CallArguments, Content, Event, Reasoning
from deepwell.safety.findings import Decision, Detector, Finding
from deepwell.safety.labels import closing_mark
from deepwell.safety.policy import Policy
from deepwell.safety.streaming.rules import StreamRules
from deepwell.server.guarding.checked import Checked
from deepwell.server.guarding.decisions import INLINE, Decisions
from deepwell.server.guarding.reader import Reader, text_of
from deepwell.server.guarding.requests import redacted_by

__all__ = ["AnswerReader", "refusal_of"]

_log = logging.getLogger(__name__)
_PACE: Final = 4096  # characters that are read on the event loop without a pause, in some 30 ms
_UNGROUNDED: Final = Finding("grounding.unsupported", "ungrounded", 0, 0)


class AnswerReader:
    """Reads answers.

    Args:
        timeout_s: seconds that a check of a whole answer against its passages may take.
    """

    def __init__(self, decisions: Decisions, timeout_s: float) -> None:
        self._decisions = decisions
        self._timeout_s = timeout_s

    async def turns(self, checked: Checked, turns: AsyncGenerator[Turn, None]) -> AsyncGenerator[Turn, None]:
        """Yields the turns of an answer as the caller may see them, each text with at most 64 characters held back."""
        decisions = self._decisions
        lacking = decisions.guard.lacking("output", checked.tenant)
        readers: dict[int, Reader] = {}
        if checked.grounds is not None:
            turns = self._grounded(checked, turns)
        if decisions.outside:
            turns = self._whole(checked, turns)
        turns = _paced(turns)
        rules: StreamRules | None = None
        async with aclosing(turns):
            async for turn in turns:
                reader = readers.get(turn.index)
                if reader is None:
                    # Passages are known to the request by now: they are searched before the first word of an answer.
                    rules = rules or await self._rules(checked)
                    reader = readers[turn.index] = Reader(rules, lacking)
                if reader.ended:
                    continue
                events, decision = reader.take(turn)
                if decision is not None:
                    await decisions.note(decision, reader.text, checked.tenant)
                if reader.ended:
                    rule = "" if decision is None else decision.rule
                    yield self._refusal(turn, checked, rule, events, newline=reader.wrote)
                    continue
                entries = reader.entries()
                if events or turn.finish_reason is not None or entries:
                    if checked.marked and reader.wrote and turn.finish_reason in ("stop", "length"):
                        events.append(Content(closing_mark(checked.language)))
                    yield replace(turn, events=tuple(events), entries=entries)

    async def _rules(self, checked: Checked) -> StreamRules:
        guard = self._decisions.guard
        rules = guard.stream_rules(checked.tenant, checked.language)
        length = len(checked.system) + sum(map(len, checked.said))
        leaks: list[Detector]
        if length <= INLINE:
            leaks = guard.leaks(checked.system, checked.said, checked.tenant)
        else:
            leaks = await asyncio.to_thread(guard.leaks, checked.system, checked.said, checked.tenant)
        return rules.also(leaks, guard.endings(checked.said, checked.tenant)) if leaks else rules

    async def _whole(self, checked: Checked, turns: AsyncGenerator[Turn, None]) -> AsyncGenerator[Turn, None]:
        """Yields the turns of a choice once services outside have read all that it says, or a refusal in their place."""
        async with aclosing(_gathered(turns)) as gathered:
            async for mine in gathered:
                text = "".join(text_of(event)[1] for one in mine for event in one.events)
                decision = await self._decisions.read(text, "output", checked.tenant)
                outside = [action for one, action in decision.findings if one.rule.startswith("external.")]
                silent = any(name.startswith("external.") for name in decision.failed)
                if outside or silent or decision.action == "block":
                    await self._decisions.note(decision, text, checked.tenant)
                # A service names no place: what it wants redacted cannot leave in part.
                if decision.action == "block" or "redact" in outside:
                    rule = decision.rule or next(
                        one.rule for one, action in decision.findings if action == "redact"
                    )
                    yield self._refusal(mine[-1], checked, rule)
                    continue
                for one in mine:
                    yield one

    async def _grounded(
        self, checked: Checked, turns: AsyncGenerator[Turn, None]
    ) -> AsyncGenerator[Turn, None]:
        """Yields the turns of a choice, and compares what it claims with its passages at the end.

        Where the policy blocks or redacts claims without support, nothing leaves before they were checked.
        """
        wanted = self._decisions.policy.action(_UNGROUNDED, "output", checked.tenant)
        if wanted == "allow":
            async with aclosing(turns):
                async for turn in turns:
                    yield turn
            return
        if wanted == "flag":
            async with aclosing(self._followed(checked, turns)) as followed:
                async for turn in followed:
                    yield turn
            return
        async with aclosing(_gathered(turns)) as gathered:
            async for mine in gathered:
                text = _content(mine)
                decision = await self._support(text, checked, mine[-1])
                if decision is not None and decision.action == "block":
                    yield self._refusal(mine[-1], checked, decision.rule)
                    continue
                if decision is not None and decision.action == "redact":
                    mine = _retold(mine, redacted_by(decision, text, checked.language))
                for one in mine:
                    yield one

    async def _followed(
        self, checked: Checked, turns: AsyncGenerator[Turn, None]
    ) -> AsyncGenerator[Turn, None]:
        """Yields turns as they come, and reports claims without support at the end."""
        said: dict[int, list[Turn]] = {}
        async with aclosing(turns):
            async for turn in turns:
                mine = said.setdefault(turn.index, [])
                mine.append(turn)
                if turn.finish_reason is not None:
                    decision = await self._support(_content(mine), checked, turn)
                    if decision is not None and decision.action == "block":  # the check failed
                        wrote = bool(_content(mine))
                        yield self._refusal(turn, checked, decision.rule, turn.events, newline=wrote)
                        continue
                yield turn

    async def _support(self, text: str, checked: Checked, last: Turn) -> Decision | None:
        """Returns the decision about what an answer claims, and notes it. None if it claims nothing without support."""
        grounds = checked.grounds
        if grounds is None or last.finish_reason == "content_filter" or not text.strip():
            return None
        guard = self._decisions.guard
        failed: tuple[str, ...] = ()
        findings: list[Finding] = []
        try:
            async with asyncio.timeout(self._timeout_s):
                findings = await grounds.ungrounded(text)
        except TimeoutError:
            failed = ("grounding",)
        except Exception:
            _log.exception("an answer cannot be compared with its passages")
            failed = ("grounding",)
        if not findings and not failed:
            return None
        decision = guard.decide(findings, "output", checked.tenant, failed)
        await self._decisions.note(decision, text, checked.tenant)
        return decision

    def _refusal(
        self, turn: Turn, checked: Checked, rule: str, before: Sequence[Event] = (), *, newline: bool = False
    ) -> Turn:
        policy, counts = self._decisions.policy, turn.counts
        return refusal_of(policy, turn.index, checked, rule, counts, before, newline=newline)


def refusal_of(
    policy: Policy,
    index: int,
    checked: Checked,
    rule: str,
    counts: Counts,
    before: Sequence[Event] = (),
    *,
    newline: bool = False,
) -> Turn:
    """Returns the last turn of an answer that the policy refuses.

    Args:
        rule: what it refuses for.
        before: what may still leave in front of the refusal.
        newline: whether text of the answer has left.
    """
    text = policy.refusal.text(checked.language, rule)
    return Turn(
        index,
        (*before, Content(("\n\n" if newline else "") + text)),
        finish_reason="content_filter",
        counts=counts,
    )


async def _paced(turns: AsyncGenerator[Turn, None]) -> AsyncGenerator[Turn, None]:
    """Yields turns, and lets others run between every few thousand characters: a cached answer comes at once."""
    read = 0
    async with aclosing(turns):
        async for turn in turns:
            size = sum(len(text_of(event)[1]) for event in turn.events)
            if size > _PACE:
                for piece in _cut(turn):
                    await asyncio.sleep(0)
                    yield piece
                continue
            read += size
            if read > _PACE:
                read = 0
                await asyncio.sleep(0)
            yield turn


def _cut(turn: Turn) -> list[Turn]:
    """Returns a turn in pieces of a few thousand characters. Its end, and what is told of its tokens, go with the last."""
    events: list[Event] = []
    for event in turn.events:
        text = text_of(event)[1]
        if isinstance(event, Content | Reasoning | CallArguments) and len(text) > _PACE:
            events += [replace(event, text=text[at : at + _PACE]) for at in range(0, len(text), _PACE)]
        else:
            events.append(event)
    *before, last = events
    pieces = [Turn(turn.index, (event,), counts=turn.counts) for event in before]
    return [*pieces, replace(turn, events=(last,))]


async def _gathered(turns: AsyncGenerator[Turn, None]) -> AsyncGenerator[list[Turn], None]:
    """Yields all turns of a choice when its last has come."""
    kept: dict[int, list[Turn]] = {}
    async with aclosing(turns):
        async for turn in turns:
            mine = kept.setdefault(turn.index, [])
            mine.append(turn)
            if turn.finish_reason is not None:
                yield mine


def _content(turns: Sequence[Turn]) -> str:
    """Returns what a choice says beside its reasoning and its calls."""
    return "".join(one.text for turn in turns for one in turn.events if isinstance(one, Content))


def _retold(turns: Sequence[Turn], text: str) -> list[Turn]:
    """Returns turns with another content, which stands where the first piece of theirs stood. Their tokens are not told."""
    told: list[Turn] = []
    for turn in turns:
        events: list[Event] = []
        for one in turn.events:
            if not isinstance(one, Content):
                events.append(one)
            elif text:
                events.append(Content(text))
                text = ""
        told.append(replace(turn, events=tuple(events), entries=()))
    return told
