"""`Dialect`: the way one model writes calls and reasoning, detected from its chat template and its vocabulary."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from deepwell.dialogue.parsers import deepseek, dsml, hermes
from deepwell.dialogue.parsers.deepseek import DeepSeekParser
from deepwell.dialogue.parsers.dsml import DsmlParser
from deepwell.dialogue.parsers.events import OutputParser
from deepwell.dialogue.parsers.hermes import HermesParser
from deepwell.dialogue.parsers.machine import ReasoningTags
from deepwell.dialogue.parsers.plain import PlainJsonParser, TextParser
from deepwell.dialogue.tools import FunctionTool
from deepwell.errors import InvalidRequest
from deepwell.models.text.chat_template import ChatTemplate

__all__ = ["Dialect", "Family", "detect_dialect"]

Family = Literal["hermes", "deepseek", "deepseek_v3", "dsml", "dsml_v4", "json"]

_INSTRUCTIONS = (
    "You can call functions to help with the user's request. These are their signatures:\n<tools>\n{tools}\n</tools>\n"
    "To call a function, answer with a JSON object that has its name and its arguments, inside tags:\n"
    '<tool_call>\n{{"name": "the function", "arguments": {{...}}}}\n</tool_call>'
)
_PROBE = {"probe-key": "probe-value"}
# Of earlier calls, in the order in which they are tried; see `Dialect.history`.
_FORMS: tuple[tuple[Literal["object", "text"], str | None], ...] = (
    ("object", None),
    ("text", None),
    ("object", ""),
    ("text", ""),
)


@dataclass(frozen=True, slots=True)
class Dialect:
    """A model's conventions.

    Attributes:
        family: the format of calls.
        offers: whether the template shows tools to the model. If not, the system message does.
        history: the form in which the template takes the calls of earlier turns: arguments as an object or as text, and what
            stands for empty content beside them (null or ""). None: it renders no calls, so the content has them as text.
        reasons: whether the model may write `<think>`.
        switch: the template's variable that turns reasoning on or off, if it has one.
    """

    family: Family = "hermes"
    offers: bool = False
    history: tuple[Literal["object", "text"], str | None] | None = None
    reasons: bool = False
    switch: str | None = None

    def reasoning(
        self, effort: str | None, param: str, *, has_levels: bool, off: str = "'none'"
    ) -> tuple[bool | None, dict[str, str]]:
        """Returns whether the model is to reason (None: as its template has it), and the variables of the template.

        A model with a switch and no levels reasons at "high", as DeepSeek's own API has it.

        Args:
            effort: the effort of the request.
            param: the request's name of the effort, for errors.
            has_levels: the template reads the effort.
            off: the value with which the request turns reasoning off, for errors.

        Raises:
            InvalidRequest: the model does not know the effort.
        """
        if effort is None:
            return None, {}
        if effort == "none":
            return False, {}
        if has_levels:
            return None, {"reasoning_effort": effort}
        if self.switch is None:
            raise InvalidRequest.of("effort_unknown", effort=effort, off=off, param=param)
        if effort != "high":
            raise InvalidRequest.of("effort_unknown_switch", effort=effort, off=off, param=param)
        return True, {}

    @property
    def markers(self) -> tuple[str, ...]:
        """Markup that parsers must see, although some of it may be control tokens of the vocabulary."""
        of_calls: dict[Family, tuple[str, ...]] = {
            "hermes": (hermes.OPEN, hermes.CLOSE),
            "deepseek": deepseek.MARKERS,
            "deepseek_v3": deepseek.MARKERS,
            "dsml": dsml.MARKERS,
            "dsml_v4": dsml.MARKERS,
            "json": ("<|python_tag|>",),
        }
        return ("<think>", "</think>", *of_calls[self.family])

    def parser(self, tools: Sequence[FunctionTool], reasoning: ReasoningTags) -> OutputParser:
        """Returns the parser for an answer to a request with these tools."""
        if not tools:
            return TextParser(reasoning)
        match self.family:
            case "hermes":
                return HermesParser(reasoning)
            case "deepseek" | "deepseek_v3":
                return DeepSeekParser(reasoning)
            case "dsml" | "dsml_v4":
                return DsmlParser(reasoning)
            case "json":
                return PlainJsonParser([tool.name for tool in tools], reasoning)

    def conversation(
        self, messages: Sequence[Mapping[str, Any]], tools: Sequence[FunctionTool]
    ) -> list[dict[str, Any]]:
        """Converts OpenAI's messages to those that the template takes; see `Attributes`."""
        turns = [self._turn(message) for message in messages]
        if tools and not self.offers:
            shown = "\n".join(json.dumps(tool.rendered(), ensure_ascii=False) for tool in tools)
            text = _INSTRUCTIONS.format(tools=shown)
            if turns and turns[0]["role"] == "system":
                turns[0] = turns[0] | {"content": f"{turns[0]['content']}\n\n{text}"}
            else:
                turns.insert(0, {"role": "system", "content": text})
        return turns

    def _turn(self, message: Mapping[str, Any]) -> dict[str, Any]:
        turn = dict(message)
        calls: Sequence[Mapping[str, Any]] = turn.pop("tool_calls", None) or ()
        if turn["role"] == "developer":
            turn["role"] = "system"  # templates do not know OpenAI's newer name
        if self.history is None:
            if turn["role"] == "tool":
                return {"role": "user", "content": f"<tool_response>\n{turn['content']}\n</tool_response>"}
            if calls:
                written = [_written(call) for call in calls]
                turn["content"] = "\n".join([turn["content"] or "", *written]).strip()
            turn.pop("tool_call_id", None)
        elif calls:
            how, empty = self.history
            turn["tool_calls"] = [_call(call, how) for call in calls]
            turn["content"] = turn["content"] or empty
        if turn["content"] is None and not calls:
            turn["content"] = ""
        return turn


def detect_dialect(template: ChatTemplate | None, vocabulary: Sequence[str]) -> Dialect:
    """Detects a model's conventions.

    Args:
        template: the chat template. None means a base model, whose users write the tags themselves.
        vocabulary: the added tokens of the vocabulary.
    """
    source = template.source if template else ""
    known = frozenset(vocabulary)
    if "｜DSML｜" in source or "｜DSML｜" in known:
        family: Family = "dsml_v4" if "｜DSML｜tool_calls" in source else "dsml"
    elif deepseek.CALL_BEGIN in source:
        family = "deepseek_v3" if "```json" in source else "deepseek"
    elif hermes.OPEN in source:
        family = "hermes"
    elif "tools" in source and ('"parameters"' in source or "python_tag" in source):
        family = "json"  # Llama 3
    else:
        family = "hermes"
    if template is None:
        return Dialect(family, reasons="<think>" in known)
    variables = template.variables
    switch = next((name for name in ("enable_thinking", "thinking") if name in variables), None)
    return Dialect(
        family,
        offers="tools" in variables,
        history=_history(template),
        reasons="<think>" in source or "</think>" in source or "<think>" in known,
        switch=switch,
    )


def _history(template: ChatTemplate) -> tuple[Literal["object", "text"], str | None] | None:
    """Finds the form in which the template takes earlier calls, by rendering a probe in every form."""
    call = {"id": "call_0", "function": {"name": "probe-name", "arguments": json.dumps(_PROBE)}}
    probes = [
        [
            {"role": "user", "content": "probe-user"},
            {"role": "assistant", "content": empty, "tool_calls": [_call(call, how)]},
            {"role": "tool", "content": "probe-result", "tool_call_id": "call_0"},
        ]
        for how, empty in _FORMS
    ]
    for form, text in zip(_FORMS, template.try_renders(probes), strict=False):  # fewer texts: it was stopped
        if text is None:
            continue
        shown = '"probe-key"' in text and "probe-name" in text and "probe-result" in text
        if shown and "None" not in text:
            return form
    return None


def _call(call: Mapping[str, Any], how: Literal["object", "text"]) -> dict[str, Any]:
    """Returns a call in the shape that templates expect."""
    function: Mapping[str, Any] = call["function"]
    arguments: Any = function["arguments"]
    if how == "object":
        arguments = _parsed(arguments)
    return {
        "id": call.get("id"),
        "type": "function",
        "function": {"name": function["name"], "arguments": arguments},
    }


def _written(call: Mapping[str, Any]) -> str:
    """Returns a call as text, in the format that `_INSTRUCTIONS` asks for."""
    function: Mapping[str, Any] = call["function"]
    arguments = _parsed(function["arguments"])
    body = json.dumps({"name": function["name"], "arguments": arguments}, ensure_ascii=False)
    return f"{hermes.OPEN}\n{body}\n{hermes.CLOSE}"


def _parsed(arguments: str) -> Any:
    """Returns arguments as an object. A model wrote them, so they may not parse to one: then they stay text."""
    try:
        parsed = json.loads(arguments)
    except (ValueError, RecursionError):
        return arguments
    return parsed if isinstance(parsed, dict) else arguments
