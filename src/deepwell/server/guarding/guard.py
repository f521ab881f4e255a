"""`ServerGuard`: the guard of one HTTP process, through which every generated text passes.

`Answering` hands out no text but through it. A request is read first (`read`, `read_texts`), which gives the `Checked` that
`turns` and `updates` ask for; without one they fail, so that a route that forgets the guard answers nothing at all.

A blocked request is answered like any other, by a refusal in the language of the request with the finish reason
"content_filter". Texts that were read before are known by their digest, so that a long conversation is not read again.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from deepwell.dialogue.completion import Choice, Counts, Update
from deepwell.dialogue.dialogue import Dialogue, Plan, Turn
from deepwell.dialogue.model import ServedModel
from deepwell.dialogue.parsers.events import Content, Event
from deepwell.dialogue.tools import FunctionTool
from deepwell.errors import DeepwellError
from deepwell.messages import Language
from deepwell.models.store.languages import is_chinese
from deepwell.safety.audit.trail import AuditTrail, RequestFacts
from deepwell.safety.external.services import ExternalServices
from deepwell.safety.findings import Decision, Detector, Layer
from deepwell.safety.guard import Guard
from deepwell.safety.labels import closing_mark
from deepwell.safety.policy import PRESETS, Policy
from deepwell.safety.redaction import label, redacted
from deepwell.safety.seams import seams
from deepwell.server.guarding.adjacent import ROLES, Cut, cut_out, runs
from deepwell.server.guarding.checked import Checked, NotChecked
from deepwell.server.guarding.reader import Reader, text_of
from deepwell.server.observe.metrics import Metrics
from deepwell.server.observe.record import Phase, current
from deepwell.server.options import GuardOptions
from deepwell.storage.database import Tenant

if TYPE_CHECKING:
    from deepwell.knowledge.documents import Passage

__all__ = ["ServerGuard"]

_log = logging.getLogger(__name__)

_in_time = asyncio.wait_for
_KNOWN: Final = 4096  # texts whose decisions are kept
_FEW: Final = 100  # findings of a decision that is kept: a text of 2 MB may have 300,000
_THREADS: Final = 2  # that read long texts
_INLINE: Final = 8192  # characters that are read on the event loop; more are read in a thread
_STAT_S: Final = 1.0
_WITHHELD: Final[Mapping[Language, str]] = {
    "en": "[withheld by the guard]",
    "zh": "[已被安全防护拦截]",
}


class ServerGuard:
    """The guard of one HTTP process. It belongs to one event loop.

    Raises:
        InvalidRequest: there is no such policy, or it is not valid.
    """

    def __init__(
        self,
        options: GuardOptions,
        metrics: Metrics,
        guard: Guard | None = None,
    ) -> None:
        self._options = options
        self._metrics = metrics
        self.audit: AuditTrail | None = None
        self._guard = guard or Guard.of(Policy.load(options.policy), options.terms)
        self._services = ExternalServices(self.policy.external, os.environ)
        self._threads = ThreadPoolExecutor(_THREADS, "guard")
        self._known: OrderedDict[tuple[str, Layer, str, bytes], Decision] = OrderedDict()
        self._path = None if options.policy in PRESETS else Path(options.policy)
        self._stamp = self._stat()
        self._looked = time.monotonic()

    @property
    def policy(self) -> Policy:
        """The policy in force."""
        return self._guard.policy

    @property
    def missing(self) -> list[str]:
        """Names of what the policy asks for and the guard lacks, such as a list of terms."""
        return sorted({name for names in self._guard.missing.values() for name in names})

    def sealed(self, plan: Plan, checked: Checked) -> Plan:
        """Returns a plan that the guard has seen; that of a refusal if it is blocked."""
        if not checked.blocked:
            checked.marked = self.policy.label and plan.grammar is None
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
        await self._seams(messages, checked)
        for place, message in enumerate(messages):
            role, content = ROLES.get(str(message.get("role")), "user"), message.get("content")
            if role == "assistant" and role in self.policy.reads:
                messages[place] = message = await self._thoughts_and_calls(message, checked)
            if not isinstance(content, str) or not content:
                continue
            if role == "system":
                checked.system += content + "\n"
            else:
                checked.said.append(content)
            if role != "tool" and role not in self.policy.reads:
                continue
            layer: Layer = "context" if role == "tool" else "input"
            text = self._treated(content, await self._decide(content, layer, tenant), checked)
            if text is not content:
                messages[place] = {**message, "content": text}
        tools, variables = dialogue.tools, dialogue.variables
        if "system" in self.policy.reads:
            tools = [await self._tool(tool, checked) for tool in tools]
        if spoken := {
            name: one for name, one in variables.items() if not isinstance(one, bool | int | float)
        }:
            # A template may print them, wherever it wants.
            variables = {**variables, **await self._values(spoken, checked)}
        return replace(dialogue, messages=messages, tools=tools, variables=variables), checked

    async def _seams(self, messages: list[Mapping[str, Any]], checked: Checked) -> None:
        """Reads across texts that a model reads as one. A term over a seam is cut out of each of them, or blocks."""
        cuts: list[Cut] = []
        for run in runs(messages, self.policy.reads):
            for seam in seams([messages[place.message][place.member] for place in run]):
                decision = self._guard.over_seam(seam, "input", checked.tenant)
                if decision is None:
                    continue
                await self._note(decision, seam.text, checked.tenant)
                checked.blocked = checked.blocked or decision.action == "block"
                for finding, action in decision.findings:
                    words = label(finding.rule, checked.language) if action == "redact" else None
                    for number, (start, end) in seam.parts(finding.start, finding.end).items():
                        if words is not None:
                            cuts.append(Cut(run[number], start, end, words))
                            words = ""
        cut_out(messages, cuts)

    async def _thoughts_and_calls(self, message: Mapping[str, Any], checked: Checked) -> Mapping[str, Any]:
        """Reads the reasoning and the calls of a message that the client says is the assistant's."""
        told = dict(message)
        if thoughts := message.get("reasoning_content"):
            told["reasoning_content"] = await self._input(str(thoughts), checked)
        if calls := message.get("tool_calls"):
            told["tool_calls"] = [await self._call(call, checked) for call in calls]
        return told

    async def _call(self, call: Mapping[str, Any], checked: Checked) -> Mapping[str, Any]:
        function = call.get("function", {})
        arguments = str(function.get("arguments", ""))
        treated = await self._input(arguments, checked)
        if treated == arguments:
            return call
        with suppress(ValueError, RecursionError):  # a number in the middle of JSON has no room for a label
            treated = json.dumps(await self._values(json.loads(arguments), checked), ensure_ascii=False)
        return {**call, "function": {**function, "arguments": treated}}

    async def _tool(self, tool: FunctionTool, checked: Checked) -> FunctionTool:
        spelt = _spelt(tool)
        if await self._input(spelt, checked) == spelt:
            return tool
        description = await self._input(tool.description, checked)
        return replace(tool, description=description, parameters=await self._values(tool.parameters, checked))

    async def _values(self, value: Any, checked: Checked) -> Any:
        """Returns a value of JSON with its texts and numbers as the model may see them. Names of members stay."""
        if isinstance(value, Mapping):
            return {name: await self._values(one, checked) for name, one in value.items()}
        if isinstance(value, list | tuple):
            return [await self._values(one, checked) for one in value]
        if isinstance(value, bool) or value is None:
            return value
        text = str(value)
        treated = await self._input(text, checked)
        return value if treated == text else treated

    async def _input(self, text: str, checked: Checked) -> str:
        return self._treated(text, await self._decide(text, "input", checked.tenant), checked)

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

    async def passages(self, passages: Sequence[Passage], checked: Checked) -> list[Passage]:
        """Returns the passages that the model may see for a request; what is to be redacted in them is."""
        allowed: list[Passage] = []
        tenant = checked.tenant
        for passage in passages:
            # Headings and the name stand in the prompt as well, and are as foreign as the text.
            told = [passage.text, passage.filename, *passage.place.headings]
            read: list[str] = []
            for text in told:
                decision = await self._decide(text, "context", tenant)
                if decision.action == "block":
                    break
                redacts = decision.action == "redact"
                read.append(_redacted(text, decision, _language(text)) if redacts else text)
            if len(read) < len(told):
                continue
            checked.said += read
            if read != told:
                text, filename, *headings = read
                place = replace(passage.place, headings=tuple(headings))
                passage = replace(passage, text=text, filename=filename, place=place)
            allowed.append(passage)
        return allowed

    async def written(self, text: str, checked: Checked) -> str:
        """Returns a short text that the model wrote beside its answer, such as a query, as the caller may see it."""
        decision = await self._read(text, "output", checked.tenant)
        await self._note(decision, text, checked.tenant)
        if decision.action == "block":
            return _WITHHELD[checked.language]
        return _redacted(text, decision, checked.language) if decision.action == "redact" else text

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
        rules = self._guard.stream_rules(checked.tenant, checked.language)
        if leaks := await self._leaks(checked):
            rules = rules.also(leaks)
        lacking = self._guard.lacking("output", checked.tenant)
        readers: dict[int, Reader] = {}
        if self._services.wanted("output"):
            turns = self._whole(checked, turns)
        async with aclosing(turns):
            async for turn in turns:
                reader = readers.get(turn.index)
                if reader is None:
                    reader = readers[turn.index] = Reader(rules, lacking)
                if reader.ended:
                    continue
                events, decision = reader.take(turn)
                if decision is not None:
                    await self._note(decision, reader.text, checked.tenant)
                if reader.ended:
                    yield self._refusal(turn.index, checked, turn.counts, events, newline=reader.wrote)
                    continue
                entries = reader.entries()
                if events or turn.finish_reason is not None or entries:
                    if checked.marked and reader.wrote and turn.finish_reason in ("stop", "length"):
                        events.append(Content(closing_mark(checked.language)))
                    yield replace(turn, events=tuple(events), entries=entries)

    async def _leaks(self, checked: Checked) -> list[Detector]:
        length = len(checked.system) + sum(map(len, checked.said))
        if length <= _INLINE:
            return self._guard.leaks(checked.system, checked.said, checked.tenant)
        return await asyncio.to_thread(self._guard.leaks, checked.system, checked.said, checked.tenant)

    async def _whole(self, checked: Checked, turns: AsyncGenerator[Turn, None]) -> AsyncGenerator[Turn, None]:
        """Yields the turns of a choice once services outside have read all that it says, or a refusal in their place."""
        kept: dict[int, list[Turn]] = {}
        async with aclosing(turns):
            async for turn in turns:
                mine = kept.setdefault(turn.index, [])
                mine.append(turn)
                if turn.finish_reason is None:
                    continue
                text = "".join(text_of(event)[1] for one in mine for event in one.events)
                decision = await self._read(text, "output", checked.tenant)
                outside = [action for one, action in decision.findings if one.rule.startswith("external.")]
                silent = any(name.startswith("external.") for name in decision.failed)
                if outside or silent or decision.action == "block":
                    await self._note(decision, text, checked.tenant)
                # A service names no place: what it wants redacted cannot leave in part.
                if decision.action == "block" or "redact" in outside:
                    yield self._refusal(turn.index, checked, turn.counts)
                    continue
                for one in mine:
                    yield one

    async def updates(
        self, checked: Checked | None, choices: Sequence[Choice], updates: AsyncGenerator[Update, None]
    ) -> AsyncGenerator[Update, None]:
        """Yields the updates of plain completions as the caller may see them. Raises as `turns`."""
        if checked is None:
            raise NotChecked("the request did not pass the guard")
        scored: dict[int, Update] = {}  # the log probabilities of prompts, which come first

        async def turns() -> AsyncGenerator[Turn, None]:
            async with aclosing(updates):
                async for one in updates:
                    if one.prompt_logprobs is not None:
                        scored[one.index] = one
                    events = (Content(one.text),) if one.text else ()
                    yield Turn(one.index, events, one.entries, one.finish_reason, one.counts, one.stop)

        if checked.blocked:
            await updates.aclose()
            for choice in choices:
                refusal = self._refusal(choice.index, checked, Counts(prompt=len(choice.request.prompt)))
                yield _update(refusal, None)
            return
        async with aclosing(self.turns(checked, turns())) as read:
            async for turn in read:
                yield _update(turn, scored.pop(turn.index, None))

    def _treated(self, text: str, decision: Decision, checked: Checked) -> str:
        """Returns a text as the model may see it, and notes in `checked` that the request is blocked."""
        if decision.action == "block":
            if decision.layer == "context":
                return _WITHHELD[checked.language]
            checked.blocked = True
        if decision.action == "redact":
            return _redacted(text, decision, checked.language)
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
        key = (self._guard.hash, layer, mine, hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest())
        decision = self._known.get(key)
        if decision is None:
            decision = await self._read(text, layer, tenant)
            if not decision.failed and len(decision.findings) <= _FEW:
                self._known[key] = decision
                if len(self._known) > _KNOWN:
                    self._known.popitem(last=False)
            self._metrics.guard.read_seconds.labels(layer).observe(time.perf_counter() - begin)
            if (record := current()) is not None:
                attributes = {"layer": layer, "action": decision.action}
                record.phases.append(Phase("guard", begin, time.perf_counter(), attributes))
            self._metrics.guard.decided(decision)
        else:
            self._known.move_to_end(key)
        await self._report(decision, text, tenant, key)
        return decision

    async def _read(self, text: str, layer: Layer, tenant: str) -> Decision:
        decision = await self._read_here(text, layer, tenant)
        if decision.action == "block" or not self._services.wanted(layer):
            return decision
        answer = await self._services.check(text, layer)
        if answer.findings or answer.failed:
            findings = [*(finding for finding, _ in decision.findings), *answer.findings]
            decision = self._guard.decide(findings, layer, tenant, (*decision.failed, *answer.failed))
        # What passed because a service did not answer is told in the trail, and is asked about again the next time.
        return replace(decision, failed=(*decision.failed, *answer.passed_over))

    async def _read_here(self, text: str, layer: Layer, tenant: str) -> Decision:
        if len(text) <= _INLINE:
            return self._guard.check(text, layer, tenant)
        try:
            return await _in_time(self._read_apart(text, layer, tenant), self._options.timeout_s)
        except TimeoutError:
            return self._guard.failure(layer, tenant, "timeout")

    async def _read_apart(self, text: str, layer: Layer, tenant: str) -> Decision:
        """Reads a long text in a thread of the guard's own. One that takes too long delays long texts alone."""
        until = time.monotonic() + self._options.timeout_s
        check = partial(self._guard.check, text, layer, tenant, until)
        return await asyncio.get_running_loop().run_in_executor(self._threads, check)

    async def _note(self, decision: Decision, text: str, tenant: str) -> None:
        self._metrics.guard.decided(decision)
        await self._report(decision, text, tenant)

    async def _report(self, decision: Decision, text: str, tenant: str, key: object = None) -> None:
        """Reports a decision to the audit trail: each request has its own entry, even for a text that was read before.

        Args:
            key: names the text, if the request may read it twice.
        """
        if self.audit is None:
            return
        record, facts = current(), RequestFacts()
        if record is not None:
            if key is not None:
                noted = record.noted = record.noted or set()
                if key in noted:
                    return
                noted.add(key)
            facts = RequestFacts(record.request_id, record.key_id, record.model, record.end_user)
        await self.audit.decided(Tenant(tenant), decision, facts, keep=self.policy.audit, text=text)

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
            services = ExternalServices(policy.external, os.environ)
        except DeepwellError as error:
            _log.error("the policy stays as it was: %s", error)
            return
        self._services = services
        self._guard = Guard.of(policy, self._options.terms)
        _log.warning("the policy of the guard is now %s", policy.hash[:12])


def _spelt(tool: FunctionTool) -> str:
    """Returns what a model reads of a tool."""
    return f"{tool.name}\n{tool.description}\n{json.dumps(tool.parameters, ensure_ascii=False)}"


def _last_said(messages: Sequence[Mapping[str, Any]]) -> str:
    for message in reversed(messages):
        if message.get("role") == "user" and isinstance(message.get("content"), str):
            return message["content"]
    return ""


def _language(text: str) -> Language:
    return "zh" if is_chinese(text[:_INLINE]) else "en"


def _redacted(text: str, decision: Decision, language: Language) -> str:
    return redacted(text, [finding for finding, action in decision.findings if action == "redact"], language)


def _update(turn: Turn, scored: Update | None) -> Update:
    reason = turn.finish_reason
    assert reason != "tool_calls"  # a continuation calls nothing
    text = "".join(one.text for one in turn.events if isinstance(one, Content))
    logprobs = None if scored is None else scored.prompt_logprobs
    return Update(turn.index, text, turn.entries, logprobs, reason, turn.counts, turn.stop)
