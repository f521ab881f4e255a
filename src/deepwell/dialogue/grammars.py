"""The grammar of a whole answer: reasoning first, then calls, a format, or text, as the request allows.

Calls are written in the model's dialect. Grammars are in llguidance's Lark.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from deepwell.dialogue.dialect import Dialect, Family
from deepwell.dialogue.parsers import deepseek
from deepwell.dialogue.parsers.machine import ReasoningTags
from deepwell.dialogue.tools import FunctionTool, ToolChoice
from deepwell.engine.grammar.json_schema import schema_source
from deepwell.engine.protocol import Grammar
from deepwell.errors import InvalidRequest

__all__ = ["MAX_CALLS", "compose"]

MAX_CALLS = 16  # most calls in one answer that a grammar allows

_OPENS: dict[Family, str] = {
    "hermes": "<tool_call>",
    "json": "",
    "deepseek": deepseek.CALLS_BEGIN,
    "deepseek_v3": deepseek.CALLS_BEGIN,
    "dsml": "<｜DSML｜function_calls>",
    "dsml_v4": "<｜DSML｜tool_calls>",
}
Marker = Callable[[str], int | None]  # returns the control token of a marker, or None if it is ordinary text


def compose(
    dialect: Dialect,
    *,
    tools: Sequence[FunctionTool],
    choice: ToolChoice,
    parallel: bool,
    format: Grammar | None,
    reasoning: ReasoningTags,
    control: Marker,
) -> Grammar | None:
    """Returns the grammar of an answer, or None if any text is allowed.

    Args:
        tools: tools that may be called. It is empty if `choice` is "none".
        format: grammar of the answer's text.
        reasoning: whether the answer may begin with reasoning, or is inside it already. Reasoning is free text.
        control: returns the id of a marker that is a control token of the vocabulary.

    Raises:
        InvalidRequest: a strict tool's schema is not supported. `param` is "tools".
    """
    if isinstance(choice, tuple):
        tools = [tool for tool in tools if tool.name in choice]
    must = choice == "required" or isinstance(choice, tuple)
    writer = _Writer(dialect, control)
    if tools and must:
        most = MAX_CALLS if parallel and choice == "required" else 1
        writer.calls(tools, most)
        body = "calls"
    elif tools and format is not None:
        writer.calls(tools, MAX_CALLS if parallel else 1)
        writer.format(format)
        body = "calls | format"
    elif tools and (any(tool.strict for tool in tools) or not parallel):
        writer.calls(tools, MAX_CALLS if parallel else 1)
        writer.text_then_calls()
        body = "text_then_calls | ANY"
    elif format is not None:
        if reasoning == "off":
            return format
        writer.format(format)
        body = "format"
    else:
        return None
    return writer.grammar(body, reasoning)


class _Writer:
    """Collects the rules of one grammar."""

    def __init__(self, dialect: Dialect, control: Marker) -> None:
        self._family: Family = dialect.family
        self._control = control
        self._rules: list[str] = ["ANY: /(.|\\n)*/"]

    def grammar(self, body: str, reasoning: ReasoningTags) -> Grammar:
        start = "body"
        if reasoning != "off":
            self._rules.append("BLANK: /[ \\n]{0,4}/")
            self._rules.append(f"thoughts: {self._until('</think>')} BLANK")
            start = "thoughts body" if reasoning == "begun" else f"({self._text('<think>')} thoughts)? body"
        lines = ["%llguidance {}", f"start: {start}", f"body: {body}", *self._rules]
        return Grammar("lark", "\n".join(lines) + "\n")

    def format(self, format: Grammar) -> None:
        """Adds the rule `format`: the text of the answer."""
        match format.kind:
            case "json_schema":
                self._rules.append(f"format: %json {schema_source(format.source)}")
            case "regex":
                escaped = format.source.replace("/", "\\/")
                self._rules.append(f"format: /{escaped}/")
            case "lark":
                self._rules.append(f"format: %lark {{\n{format.source}\n}}")

    def calls(self, tools: Sequence[FunctionTool], most: int) -> None:
        """Adds the rules `calls`, one to `most` calls of these tools, and `calls_behind`, the same without the first marker."""
        for number, tool in enumerate(tools):
            self._rules.append(f"arguments_{number}: {self._arguments(tool)}")
            begin, end = self._call(tool.name)
            self._rules.append(f"call_{number}: {begin} arguments_{number} {end}")
        self._rules.append("call: " + " | ".join(f"call_{number}" for number in range(len(tools))))
        lead, inside, between, end = self._block()
        more = f" ({between} call){{0,{most - 1}}}" if most > 1 else ""
        self._rules.append(f"calls_behind: {inside} call{more} {end}")
        self._rules.append(f"calls: {lead} calls_behind")

    def text_then_calls(self) -> None:
        """Adds the rule `text_then_calls`: any text, then calls. The marker ends the text. A family without one has no text."""
        opens = _OPENS[self._family]
        token = self._control(opens) if opens else None
        if not opens:
            self._rules.append("text_then_calls: calls")
        elif token is not None:
            self._rules.append(f"text_then_calls: ANY <[{token}]> calls_behind")
        else:
            self._rules.append(f"text_until[lazy]: ANY {_quoted(opens)}")
            self._rules.append("text_then_calls: text_until calls_behind")

    def _block(self) -> tuple[str, str, str, str]:
        """Returns the grammar around calls: the marker in front, the text behind it, the separator, and the end."""
        lead = self._text(_OPENS[self._family])
        match self._family:
            case "hermes":
                return lead, "", f"{_quoted(chr(10))} {lead}", ""
            case "json":
                return lead, "", _quoted("; "), ""
            case "deepseek":
                return lead, "", "", self._text(deepseek.CALLS_END)
            case "deepseek_v3":
                return lead, "", _quoted("\n"), self._text(deepseek.CALLS_END)
            case "dsml":
                return lead, _quoted("\n"), "", _quoted("</｜DSML｜function_calls>")
            case "dsml_v4":
                return lead, _quoted("\n"), "", _quoted("</｜DSML｜tool_calls>")

    def _call(self, function: str) -> tuple[str, str]:
        """Returns the grammar of what stands before and behind the arguments of a call."""
        text, quoted = self._text, json.dumps(function, ensure_ascii=False)
        begin, sep = text(deepseek.CALL_BEGIN), text(deepseek.SEP)
        match self._family:
            case "hermes":  # the opening tag comes from `_block`
                return _quoted(f'\n{{"name": {quoted}, "arguments": '), _quoted("}\n</tool_call>")
            case "json":
                return _quoted(f'{{"name": {quoted}, "parameters": '), _quoted("}")
            case "deepseek":
                return f"{begin} {_quoted(function)} {sep}", text(deepseek.CALL_END)
            case "deepseek_v3":
                head = f"{begin} {_quoted('function')} {sep} " + _quoted(f"{function}\n```json\n")
                return head, _quoted("\n```") + " " + text(deepseek.CALL_END)
            case "dsml" | "dsml_v4":
                return _quoted(f"<｜DSML｜invoke name={quoted}>\n"), _quoted("</｜DSML｜invoke>\n")

    def _arguments(self, tool: FunctionTool) -> str:
        # Only declared arguments are allowed: without this, small models invent others.
        schema = tool.schema()
        if "properties" in schema:
            schema = {"additionalProperties": False, **schema}
        try:
            source = schema_source(json.dumps(schema, ensure_ascii=False))
        except InvalidRequest as error:
            if tool.strict:
                raise InvalidRequest(
                    f"the tool {tool.name!r} is strict: {error.message}", fix=error.fix, param="tools"
                ) from error
            # Without `strict`, arguments are only promised to be a JSON object.
            return '%json {"type": "object"}'
        return self._parameters(schema) if self._family in ("dsml", "dsml_v4") else f"%json {source}"

    def _parameters(self, schema: Mapping[str, Any]) -> str:
        """Returns the grammar of DSML's parameters, in the order of the schema."""
        properties: Mapping[str, Any] = schema.get("properties") or {}
        required = set(schema.get("required") or ())
        shared = {key: schema[key] for key in ("$defs", "definitions") if key in schema}
        parts: list[str] = []
        for key, value in properties.items():
            plain = isinstance(value, Mapping) and set(value) <= {"type", "title", "description"}
            free = plain and value.get("type") == "string"
            head = f'<｜DSML｜parameter name="{key}" string="{"true" if free else "false"}">'
            end = "</｜DSML｜parameter>"
            if free:
                body = self._until(end)
            else:
                inner = {**value, **shared} if isinstance(value, Mapping) else {}
                body = f"%json {schema_source(json.dumps(inner, ensure_ascii=False))} {self._text(end)}"
            part = f"{self._text(head)} {body} {self._text(chr(10))}"
            parts.append(part if key in required else f"({part})?")
        return " ".join(parts) or '""'

    def _until(self, end: str) -> str:
        """Returns the grammar of text up to and including a marker."""
        token = self._control(end)
        if token is not None:
            return f"ANY <[{token}]>"
        name = f"until_{len(self._rules)}"
        self._rules.append(f"{name}[suffix={_quoted(end)}]: ANY")
        return name

    def _text(self, text: str) -> str:
        """Returns the grammar of a literal, which may be a control token."""
        token = self._control(text) if text else None
        return f"<[{token}]>" if token is not None else _quoted(text)


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
