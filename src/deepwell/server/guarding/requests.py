"""`RequestReader`: reads messages, prompts, tools and variables of a request, and returns them as the model may see them."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final

from deepwell.dialogue.dialogue import Dialogue
from deepwell.dialogue.tools import FunctionTool
from deepwell.messages import Language
from deepwell.models.store.languages import is_chinese
from deepwell.safety.findings import Decision, Layer
from deepwell.safety.policy import Policy
from deepwell.safety.redaction import label, redacted
from deepwell.safety.seams import seams
from deepwell.server.guarding.adjacent import ROLES, Cut, cut_out, runs
from deepwell.server.guarding.checked import Checked
from deepwell.server.guarding.decisions import INLINE, Decisions

__all__ = ["WITHHELD", "RequestReader", "language_of", "redacted_by"]

WITHHELD: Final[Mapping[Language, str]] = {
    "en": "[withheld by the guard]",
    "zh": "[已被安全防护拦截]",
}
"""The text in place of one that is withheld."""


_PLAIN_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""Ids of calls as servers make them. Any other text may be meant for the model."""


class RequestReader:
    """Reads requests."""

    def __init__(self, decisions: Decisions) -> None:
        self._decisions = decisions

    @property
    def _policy(self) -> Policy:
        return self._decisions.policy

    async def dialogue(self, dialogue: Dialogue, tenant: str) -> tuple[Dialogue, Checked]:
        """Reads the messages of users and tools. What is blocked in a tool's result is withheld from the model.

        Raises:
            InvalidRequest: there is more to read than the policy allows.
        """
        messages = list(dialogue.messages)
        checked = Checked(tenant)
        checked.language = language_of(_last_said(messages))
        self._decisions.admit(self._characters(dialogue), dialogue.params.get("messages", "messages"))
        await self._seams(messages, checked)
        for place, message in enumerate(messages):
            role, content = _role(message), message.get("content")
            if role == "assistant" and role in self._policy.reads:
                messages[place] = message = await self._thoughts_and_calls(message, checked)
            elif role == "tool" and (told := await self._named(message, "tool_call_id", "context", checked)):
                messages[place] = message = told
            if not isinstance(content, str) or not content:
                continue
            if role == "system":
                checked.system += content + "\n"
            else:
                checked.said.append(content)
            if role != "tool" and role not in self._policy.reads:
                continue
            layer: Layer = "context" if role == "tool" else "input"
            text = self._treated(content, await self._decisions.decide(content, layer, tenant), checked)
            if text is not content:
                messages[place] = {**message, "content": text}
        tools, variables = dialogue.tools, dialogue.variables
        if "system" in self._policy.reads:
            tools = [await self._tool(tool, checked) for tool in tools]
        if spoken := _spoken(variables):
            # A template may print them, wherever it wants.
            read = {name: await self._values(one, checked) for name, one in spoken.items()}
            variables = {**variables, **read}
        return replace(dialogue, messages=messages, tools=tools, variables=variables), checked

    async def texts(self, texts: Sequence[str], tenant: str) -> tuple[list[str], Checked]:
        """Reads prompts. Raises as `dialogue`."""
        self._decisions.admit(sum(map(len, texts)), "prompt")
        checked = Checked(tenant, language_of(texts[-1]) if texts else "en")
        treated: list[str] = []
        for text in texts:
            checked.said.append(text)
            treated.append(await self._input(text, checked))
        return treated, checked

    def _characters(self, dialogue: Dialogue) -> int:
        """Returns the number of characters of a dialogue that are to be read."""
        reads = self._policy.reads
        count = _length(_spoken(dialogue.variables))
        for message in dialogue.messages:
            role, content = _role(message), message.get("content")
            if isinstance(content, str) and (role == "tool" or role in reads):
                count += len(content) + len(str(message.get("tool_call_id") or ""))
            if role == "assistant" and role in reads:
                count += len(str(message.get("reasoning_content") or "")) + _length(message.get("tool_calls"))
        return count + (sum(len(_spelt(tool)) for tool in dialogue.tools) if "system" in reads else 0)

    async def _seams(self, messages: list[Mapping[str, Any]], checked: Checked) -> None:
        """Reads across texts that a model reads as one. A term over a seam is cut out of each of them, or blocks."""
        cuts: list[Cut] = []
        for run in runs(messages, self._policy.reads):
            for seam in seams([messages[place.message][place.member] for place in run]):
                await asyncio.sleep(0)  # there may be thousands
                decision = self._decisions.guard.over_seam(seam, "input", checked.tenant)
                if decision is None:
                    continue
                await self._decisions.note(decision, seam.text, checked.tenant)
                checked.refused_by = checked.refused_by or decision.rule
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

    async def _named(
        self, told: Mapping[str, Any], member: str, layer: Layer, checked: Checked
    ) -> Mapping[str, Any] | None:
        """Reads the id of a call, which a template may print, unless it is a plain one. None: it stays as it is."""
        name = told.get(member)
        if not isinstance(name, str) or _PLAIN_ID.fullmatch(name):
            return None
        treated = self._treated(name, await self._decisions.decide(name, layer, checked.tenant), checked)
        return None if treated == name else {**told, member: treated}

    async def _call(self, call: Mapping[str, Any], checked: Checked) -> Mapping[str, Any]:
        call = await self._named(call, "id", "input", checked) or call
        function = call.get("function", {})
        name = str(function.get("name", ""))
        if (called := await self._input(name, checked)) != name:
            function = {**function, "name": called}
            call = {**call, "function": function}
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
        """Returns a value of JSON with its names, texts and numbers as the model may see them."""
        if isinstance(value, Mapping):
            told: dict[str, Any] = {}
            for name, one in value.items():
                shown = await self._input(str(name), checked)
                while shown in told:  # two names that are redacted alike
                    shown += "_"
                told[shown] = await self._values(one, checked)
            return told
        if isinstance(value, list | tuple):
            return [await self._values(one, checked) for one in value]
        if isinstance(value, bool) or value is None:
            return value
        text = str(value)
        treated = await self._input(text, checked)
        return value if treated == text else treated

    async def _input(self, text: str, checked: Checked) -> str:
        return self._treated(text, await self._decisions.decide(text, "input", checked.tenant), checked)

    @staticmethod
    def _treated(text: str, decision: Decision, checked: Checked) -> str:
        """Returns a text as the model may see it, and notes in `checked` by which rule the request is blocked."""
        if decision.action == "block":
            if decision.layer == "context":
                return WITHHELD[checked.language]
            checked.refused_by = checked.refused_by or decision.rule
        if decision.action == "redact":
            return redacted_by(decision, text, checked.language)
        return text


def language_of(text: str) -> Language:
    """Returns the language in which the writer of a text is answered."""
    return "zh" if is_chinese(text[:INLINE]) else "en"


def redacted_by(decision: Decision, text: str, language: Language) -> str:
    """Returns a text with labels in place of what a decision redacts."""
    return redacted(text, [finding for finding, action in decision.findings if action == "redact"], language)


def _role(message: Mapping[str, Any]) -> str:
    return ROLES.get(str(message.get("role")), "user")


def _spoken(variables: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the variables of a template that hold text."""
    return {name: one for name, one in variables.items() if not isinstance(one, bool | int | float)}


def _length(value: Any) -> int:
    """Returns the number of characters in the names and texts of a value of JSON."""
    count, waiting = 0, [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, str):
            count += len(one)
        elif isinstance(one, Mapping):
            waiting += [*one.keys(), *one.values()]
        elif isinstance(one, list | tuple):
            waiting += one
    return count


def _spelt(tool: FunctionTool) -> str:
    """Returns what a model reads of a tool."""
    return f"{tool.name}\n{tool.description}\n{json.dumps(tool.parameters, ensure_ascii=False)}"


def _last_said(messages: Sequence[Mapping[str, Any]]) -> str:
    for message in reversed(messages):
        if message.get("role") == "user" and isinstance(message.get("content"), str):
            return message["content"]
    return ""
