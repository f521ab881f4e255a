"""`ServerGuard`: the guard of one HTTP process, through which every generated text passes.

`Answering` hands out no text but through it. A request is read first (`read`, `read_texts`), which gives the `Checked` that
`turns` and `updates` ask for; without one they fail, so that a route that forgets the guard answers nothing at all.

A blocked request is answered like any other, by a refusal in the language of the request with the finish reason
"content_filter". Texts that were read before are known by their digest, so that a long conversation is not read again.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from deepwell.dialogue.completion import Caller, Choice, Counts, Update
from deepwell.dialogue.dialogue import Dialogue, Plan, Turn, plan_dialogue
from deepwell.dialogue.model import ServedModel
from deepwell.dialogue.parsers.events import CallArguments, Content, Event, Reasoning
from deepwell.errors import DeepwellError
from deepwell.safety.findings import Decision, Layer
from deepwell.safety.guard import Guard
from deepwell.safety.policy import PRESETS, Policy
from deepwell.safety.stream import StreamScanner
from deepwell.safety.text import is_chinese, redacted
from deepwell.server.observe.metrics import Metrics
from deepwell.server.observe.record import Phase, current
from deepwell.server.options import GuardOptions

if TYPE_CHECKING:
    from deepwell.knowledge.documents import Passage

__all__ = ["Checked", "NotChecked", "Remember", "ServerGuard"]

_log = logging.getLogger(__name__)

Language = Literal["en", "zh"]
Remember = Callable[[str, Decision, str], Awaitable[None]]
"""Writes a decision into the audit trail of a tenant: tenant, decision, text."""

_KNOWN: Final = 4096  # texts whose decisions are kept
_INLINE: Final = 8192  # characters that are read on the event loop; more are read in a thread
_STAT_S: Final = 1.0
_ROLES: Final[Mapping[str, Layer]] = {"user": "input", "tool": "context", "function": "context"}
_WITHHELD: Final[Mapping[Language, str]] = {
    "en": "[withheld by the guard]",
    "zh": "[已被安全防护拦截]",
}


class NotChecked(Exception):
    """Raised when a route asks for text that the guard has not been asked about. It is a fault of the route."""


@dataclass(slots=True)
class Checked:
    """A request that the guard has read.

    Attributes:
        tenant: the caller's.
        language: of the refusal.
        blocked: whether the answer is a refusal.
        inner: the text is part of an answer that is read as a whole later on.
    """

    tenant: str
    language: Language = "en"
    blocked: bool = False
    inner: bool = False
    system: str = ""
    said: list[str] = field(default_factory=list[str])

    @classmethod
    def part(cls) -> Checked:
        """Returns the note of a text that the server asks for itself, on its way to an answer that is read as a whole."""
        return cls("", inner=True)


class ServerGuard:
    """The guard of one HTTP process. It belongs to one event loop.

    Raises:
        InvalidRequest: there is no such policy, or it is not valid.
    """

    def __init__(
        self,
        options: GuardOptions,
        metrics: Metrics,
        remember: Remember | None = None,
        guard: Guard | None = None,
    ) -> None:
        self._options = options
        self._metrics = metrics
        self._remember = remember
        self._guard = guard or Guard.of(Policy.load(options.policy), options.models_dir)
        self._known: OrderedDict[tuple[str, Layer, str, bytes], Decision] = OrderedDict()
        self._path = None if options.policy in PRESETS else Path(options.policy)
        self._stamp = self._stat()
        self._looked = time.monotonic()

    @property
    def policy(self) -> Policy:
        """The policy in force."""
        return self._guard.policy

    async def plan(self, model: ServedModel, dialogue: Dialogue, caller: Caller, tenant: str) -> Plan:
        """Reads a dialogue and returns its plan, in which what the policy redacts is redacted. Raises as `plan_dialogue`."""
        dialogue, checked = await self.read(dialogue, tenant)
        return self.sealed(await plan_dialogue(model, dialogue, caller), checked)

    def sealed(self, plan: Plan, checked: Checked) -> Plan:
        """Returns a plan that the guard has seen; that of a refusal if it is blocked."""
        if not checked.blocked:
            return replace(plan, checked=checked)

        async def refusals(choices: Sequence[Choice]) -> AsyncGenerator[Turn, None]:
            for choice in choices:
                yield self._refusal(choice.index, checked, Counts(prompt=len(choice.request.prompt)))

        return replace(plan, question=None, answers=refusals, checked=replace(checked, inner=True))

    async def read(self, dialogue: Dialogue, tenant: str) -> tuple[Dialogue, Checked]:
        """Reads the messages of users and tools. What is blocked in a tool's result is withheld from the model."""
        messages = list(dialogue.messages)
        checked = Checked(tenant)
        checked.language = _language(_last_said(messages))
        for place, message in enumerate(messages):
            role, content = str(message.get("role")), message.get("content")
            if not isinstance(content, str) or not content:
                continue
            if role in ("system", "developer"):
                checked.system += content + "\n"
                continue
            checked.said.append(content)
            layer = _ROLES.get(role)
            if layer is None:
                continue
            decision = await self._decide(content, layer, tenant)
            text = self._treated(content, decision, checked)
            if text is not content:
                messages[place] = {**message, "content": text}
        return replace(dialogue, messages=messages), checked

    async def read_texts(self, texts: Sequence[str], tenant: str) -> tuple[list[str], Checked]:
        """Reads prompts. Returns them as the model may see them."""
        checked = Checked(tenant, _language(texts[-1]) if texts else "en")
        treated: list[str] = []
        for text in texts:
            checked.said.append(text)
            treated.append(self._treated(text, await self._decide(text, "input", tenant), checked))
        return treated, checked

    async def read_prompts(
        self, model: ServedModel, prompts: Sequence[Sequence[int]], tenant: str
    ) -> tuple[list[list[int]], Checked]:
        """Reads prompts that are tokens already. Those with something redacted are tokenised anew."""
        texts = [model.codec.decode(model.codec.unframed(list(prompt))) for prompt in prompts]
        treated, checked = await self.read_texts(texts, tenant)
        read: list[list[int]] = []
        for prompt, before, after in zip(prompts, texts, treated, strict=True):
            read.append(list(prompt) if before == after else (await model.encode_prompts(after, "prompt"))[0])
        return read, checked

    async def passages(self, passages: Sequence[Passage], tenant: str) -> list[Passage]:
        """Returns the passages that the model may see; what is to be redacted in them is."""
        allowed: list[Passage] = []
        for passage in passages:
            decision = await self._decide(passage.text, "context", tenant)
            if decision.action == "block":
                continue
            text = passage.text
            if decision.action == "redact":
                text = redacted(text, decision, _language(text))
            allowed.append(passage if text == passage.text else replace(passage, text=text))
        return allowed

    async def turns(
        self, checked: Checked | None, turns: AsyncGenerator[Turn, None]
    ) -> AsyncGenerator[Turn, None]:
        """Yields the turns of an answer as the caller may see them, each text with at most 64 characters held back.

        Raises:
            NotChecked: the guard was not asked about the request.
        """
        if checked is None:
            raise NotChecked("the request did not pass the guard")
        if checked.inner:
            async with aclosing(turns):
                async for turn in turns:
                    yield turn
            return
        readers: dict[int, _Reader] = {}
        ended: set[int] = set()
        async with aclosing(turns):
            async for turn in turns:
                if turn.index in ended:
                    continue
                reader = readers.setdefault(turn.index, _Reader(self._guard, checked))
                events, blocked = reader.take(turn)
                if blocked is not None:
                    ended.add(turn.index)
                    await self._note(blocked, reader.text, checked.tenant)
                    yield self._refusal(turn.index, checked, turn.counts, events, newline=reader.wrote)
                    continue
                if turn.finish_reason is not None and (decision := reader.decision) is not None:
                    await self._note(decision, reader.text, checked.tenant)
                changed = events != list(turn.events)
                if events or turn.finish_reason is not None or not changed:
                    entries = () if changed and reader.altered else turn.entries
                    yield replace(turn, events=tuple(events), entries=entries)

    async def updates(
        self, checked: Checked | None, choices: Sequence[Choice], updates: AsyncGenerator[Update, None]
    ) -> AsyncGenerator[Update, None]:
        """Yields the updates of plain completions as the caller may see them. Raises as `turns`."""
        if checked is None:
            raise NotChecked("the request did not pass the guard")
        refused = self.policy.refusal
        refusal = refused.zh if checked.language == "zh" else refused.en
        if checked.blocked:
            await updates.aclose()
            for choice in choices:
                counts = Counts(prompt=len(choice.request.prompt))
                yield Update(choice.index, refusal, finish_reason="content_filter", counts=counts)
            return
        scanners: dict[int, StreamScanner] = {}
        ended: set[int] = set()
        async with aclosing(updates):
            async for update in updates:
                if update.index in ended:
                    continue
                scanner = scanners.get(update.index)
                if scanner is None:
                    scanner = scanners[update.index] = self._guard.stream(checked.tenant, checked.system)
                last = update.finish_reason is not None
                released = scanner.push(update.text)
                text = released.text
                if last and not released.blocked:
                    released = scanner.finish()
                    text += released.text
                if released.blocked:
                    ended.add(update.index)
                    await self._note(scanner.decision, scanner.text, checked.tenant)
                    yield replace(
                        update, text=text + refusal, entries=(), finish_reason="content_filter", stop=None
                    )
                    continue
                if last and scanner.decision.findings:
                    await self._note(scanner.decision, scanner.text, checked.tenant)
                entries = () if scanner.altered else update.entries
                yield replace(update, text=text, entries=entries)

    def _treated(self, text: str, decision: Decision, checked: Checked) -> str:
        """Returns a text as the model may see it, and notes in `checked` that the request is blocked."""
        if decision.action == "block":
            if decision.layer == "context":
                return _WITHHELD[checked.language]
            checked.blocked = True
        if decision.action == "redact":
            return redacted(text, decision, checked.language)
        return text

    def _refusal(
        self,
        index: int,
        checked: Checked,
        counts: Counts,
        before: Sequence[Event] = (),
        *,
        newline: bool = False,
    ) -> Turn:
        refusal = self.policy.refusal
        text = refusal.zh if checked.language == "zh" else refusal.en
        return Turn(
            index,
            (*before, Content(("\n\n" if newline else "") + text)),
            finish_reason="content_filter",
            counts=counts,
        )

    async def _decide(self, text: str, layer: Layer, tenant: str) -> Decision:
        """Returns the decision about a text, read now or before, and notes it."""
        self._refresh()
        begin = time.perf_counter()
        mine = tenant if tenant in self.policy.tenants else ""
        key = (self._guard.hash, layer, mine, hashlib.sha256(text.encode("utf-8", "replace")).digest())
        decision = self._known.get(key)
        if decision is None:
            decision = await self._read(text, layer, tenant)
            if not decision.failed:
                self._known[key] = decision
                if len(self._known) > _KNOWN:
                    self._known.popitem(last=False)
            self._metrics.guard.read_seconds.labels(layer).observe(time.perf_counter() - begin)
            if (record := current()) is not None:
                attributes = {"layer": layer, "action": decision.action}
                record.phases.append(Phase("guard", begin, time.perf_counter(), attributes))
            await self._note(decision, text, tenant)
        else:
            self._known.move_to_end(key)
        return decision

    async def _read(self, text: str, layer: Layer, tenant: str) -> Decision:
        if len(text) <= _INLINE:
            return self._guard.check(text, layer, tenant)
        try:
            reading = asyncio.to_thread(self._guard.check, text, layer, tenant)
            return await asyncio.wait_for(reading, self._options.timeout_s)
        except TimeoutError:
            return self._guard.failure(layer, tenant, "timeout")

    async def _note(self, decision: Decision, text: str, tenant: str) -> None:
        self._metrics.guard.decided(decision)
        if self._remember is None:
            return
        if decision.action in ("allow", "flag") and self.policy.audit.decisions == "acted":
            return
        await self._remember(tenant, decision, text if self.policy.audit.keep_text else "")

    def _stat(self) -> tuple[int, int] | None:
        if self._path is None:
            return None
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size

    def _refresh(self) -> None:
        """Takes a changed policy file over; an invalid one is logged, and the policy in force stays."""
        now = time.monotonic()
        if self._path is None or now - self._looked < _STAT_S:
            return
        self._looked = now
        stamp = self._stat()
        if stamp is None or stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            policy = Policy.load(self._path)
        except DeepwellError as error:
            _log.error("the policy stays as it was: %s", error)
            return
        self._guard = self._guard.with_policy(policy)
        _log.warning("the policy of the guard is now %s", policy.hash[:12])


class _Reader:
    """Reads one choice's content, reasoning and arguments of calls, each as a text of its own."""

    def __init__(self, guard: Guard, checked: Checked) -> None:
        self._guard = guard
        self._checked = checked
        self._scanners: dict[str, StreamScanner] = {}
        self._order: list[Any] = []
        self.wrote = False

    @property
    def altered(self) -> bool:
        """True once a text differs from what the model wrote."""
        return any(one.altered for one in self._scanners.values())

    @property
    def text(self) -> str:
        """All that the model wrote."""
        return "".join(one.text for one in self._scanners.values())

    @property
    def decision(self) -> Decision | None:
        """The strictest decision so far, None if nothing was found."""
        found = [one.decision for one in self._scanners.values() if one.decision.findings]
        return max(found, key=lambda one: one.action == "redact", default=None)

    def take(self, turn: Turn) -> tuple[list[Event], Decision | None]:
        """Returns what may leave of a turn, and the decision that ends the answer, if one does."""
        events: list[Event] = []
        for event in turn.events:
            kind = _kind(event)
            if kind is None:
                events += self._flush(except_for="")
                events.append(event)
                continue
            events += self._flush(except_for=kind)
            scanner = self._scanners.get(kind)
            if scanner is None:
                scanner = self._guard.stream(self._checked.tenant, self._checked.system)
                self._scanners[kind] = scanner
            released = scanner.push(event.text)  # pyright: ignore[reportAttributeAccessIssue] - as `_kind` says
            if released.text:
                events.append(replace(event, text=released.text))  # pyright: ignore[reportCallIssue]
            if released.blocked:
                return self._sent(events), scanner.decision
        if turn.finish_reason is not None:
            events += self._flush(except_for="")
        for scanner in self._scanners.values():
            if scanner.blocked:
                return self._sent(events), scanner.decision
        return self._sent(events), None

    def _flush(self, *, except_for: str) -> list[Event]:
        """Returns what other texts held back: they have ended."""
        events: list[Event] = []
        for kind, scanner in list(self._scanners.items()):
            if kind == except_for or scanner.finished:
                continue
            released = scanner.finish()
            if released.text:
                events.append(_event(kind, released.text))
        return events

    def _sent(self, events: list[Event]) -> list[Event]:
        self.wrote = self.wrote or any(isinstance(one, Content) and one.text for one in events)
        return events


def _kind(event: Event) -> str | None:
    match event:
        case Content():
            return "content"
        case Reasoning():
            return "reasoning"
        case CallArguments(index, _):
            return f"call {index}"
        case _:
            return None


def _event(kind: str, text: str) -> Event:
    if kind == "content":
        return Content(text)
    return Reasoning(text) if kind == "reasoning" else CallArguments(int(kind.rpartition(" ")[2]), text)


def _last_said(messages: Sequence[Mapping[str, Any]]) -> str:
    for message in reversed(messages):
        if message.get("role") == "user" and isinstance(message.get("content"), str):
            return message["content"]
    return ""


def _language(text: str) -> Language:
    return "zh" if is_chinese(text) else "en"
