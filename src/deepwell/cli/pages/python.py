"""The page on the Python API, made from its signatures and docstrings."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Iterator
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec

from deepwell.llm import (
    LLM,
    AsyncLLM,
    AsyncTextStream,
    Completion,
    CompletionChoice,
    Piece,
    Score,
    TextStream,
    TokenLogprob,
    ToolCall,
)
from deepwell.llm.arguments import ChatOptions, Constraint, Options, Sampling
from deepwell.settings import Settings

__all__ = ["python_page"]

_HEAD = """\
# Python API

`make docs` makes this page from the code. [The guide](../guides/python-api.md) shows it at work. `deepwell` has `LLM`,
`AsyncLLM`, `DeepwellError` and `__version__`; results and streams are in `deepwell.llm`.
"""
_CLASSES = (LLM, AsyncLLM)
_RESULTS = (Completion, CompletionChoice, Piece, TokenLogprob, ToolCall, Score, TextStream, AsyncTextStream)
_GROUPS = (Options, Sampling, Constraint, ChatOptions)
_TITLES = {"Args": "Arguments"}
_NAMES = ("Args", "Attributes", "Raises", "Returns")
_LARGE = 2**53  # a bound that goes without saying
_WIDTH = 90  # of a signature on one line
_SECTION = re.compile(rf"^({'|'.join(_NAMES)}):\n((?:    .*\n?|\n(?=    ))+)", re.MULTILINE)


def python_page() -> str:
    """Returns the text of the page."""
    parts = [_HEAD, *(_class(one, "##") for one in _CLASSES)]
    parts += ["## Arguments\n", *(_group(one) for one in _GROUPS)]
    parts += ["## Results\n", *(_class(one, "###") for one in _RESULTS)]
    return "\n".join(parts)


def _class(one: type[Any], mark: str) -> str:
    lines = [f"{mark} {one.__name__}\n"]
    if one in _CLASSES:
        lines.append(f"```python\n{one.__name__}{_signature(one.__init__)}\n```\n")
    lines.append(_text(one.__doc__))
    if rows := list(_values(one)):
        lines += ["| attribute | type | |", "|---|---|---|", *rows, ""]
    for name, member in _members(one):
        if inspect.isfunction(member):
            coroutine = "await " if inspect.iscoroutinefunction(member) else ""
            lines.append(f"{mark}# {one.__name__}.{name}\n")
            lines.append(f"```python\n{coroutine}{name}{_signature(member)}\n```\n")
            lines.append(_text(member.__doc__))
    return "\n".join(lines)


def _values(one: type[Any]) -> Iterator[str]:
    """Yields a row for each field and property."""
    described = dict(_attributes(one.__doc__ or ""))
    if dataclasses.is_dataclass(one):
        for field in dataclasses.fields(one):
            if field.repr:
                text = described.get(field.name, "")
                yield f"| `{field.name}` | `{_cell(str(field.type))}` | {_cell(text[:1].upper() + text[1:])} |"
    for name, member in _members(one):
        if isinstance(member, property):
            kind = inspect.signature(member.fget).return_annotation  # type: ignore[arg-type]
            text = _SECTION.sub("", inspect.cleandoc(member.__doc__ or "")).strip()
            yield f"| `{name}` | `{_cell(str(kind))}` | {_cell(_joined(text))} |"


def _members(one: type[Any]) -> Iterator[tuple[str, Any]]:
    for name in dir(one):
        if not name.startswith("_"):
            yield name, inspect.getattr_static(one, name)


def _attributes(text: str) -> Iterator[tuple[str, str]]:
    for section, items in _sections(text):
        if section == "Attributes":
            yield from items


def _sections(text: str) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Yields the sections of a docstring with their items: a name, or nothing, and a text."""
    for section, body in _SECTION.findall(inspect.cleandoc(text) + "\n"):
        items: list[tuple[str, str]] = []
        for line in inspect.cleandoc("\n" + body).splitlines():
            name, colon, rest = line.partition(": ")
            if line.startswith(" ") and items:
                items[-1] = (items[-1][0], f"{items[-1][1]} {line.strip()}")
            elif section == "Returns":
                items.append(("", line))
            else:
                items.append((name, rest) if colon else ("", line))
        yield section, items


def _text(doc: str | None) -> str:
    """Returns a docstring as Markdown."""
    whole = inspect.cleandoc(doc or "") + "\n"
    lines = ["\n\n".join(_joined(part) for part in _SECTION.sub("", whole).strip().split("\n\n")), ""]
    for section, items in _sections(whole):
        if section == "Attributes":
            continue
        lines += [f"{_TITLES.get(section, section)}:", ""]
        for name, text in items:
            names = ", ".join(f"`{one}`" for one in name.split(", ")) if name else ""
            lines.append(f"- {names}{': ' if names else ''}{text}")
        lines.append("")
    return "\n".join(lines)


def _joined(text: str) -> str:
    return " ".join(text.split())


def _signature(function: Any) -> str:
    """Returns the parameters of a method and what it returns, on a line each where one line is too long."""
    signature = inspect.signature(function)
    given = [one.replace(annotation=_Plain(one.annotation)) for one in signature.parameters.values()][1:]
    whole = str(signature.replace(parameters=given, return_annotation=inspect.Signature.empty))
    returned = signature.return_annotation
    end = "" if returned in (None, "None") else f" -> {returned}"
    if len(whole + end) < _WIDTH:
        return whole + end
    stars = [str(one) for one in given]
    first = next((n for n, one in enumerate(given) if one.kind is one.KEYWORD_ONLY), None)
    if first is not None:
        stars.insert(first, "*")
    return "".join(["(\n", *(f"    {one},\n" for one in stars), ")", end])


class _Plain:
    """An annotation that is shown as it is written."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text


def _group(group: type[Any]) -> str:
    lines = [
        f"### {group.__name__}\n",
        _joined(group.__doc__ or ""),
        "",
        "| argument | values | |",
        "|---|---|---|",
    ]
    for name, hint in get_type_hints(group, include_extras=True).items():
        values, text = _described(hint)
        if group is Options:
            text = Settings.model_fields[name].description or ""
        lines.append(f"| `{name}` | {values} | {_cell(text)} |")
    return "\n".join([*lines, ""])


def _described(hint: Any) -> tuple[str, str]:
    """Returns the values of an argument in words, and its description."""
    marks: list[msgspec.Meta] = []
    words = " or ".join(dict.fromkeys(_words(one) for one in _plain(hint, marks)))
    mark = marks[0] if marks else msgspec.Meta()
    low, high = mark.ge, mark.le
    if mark.gt is not None:
        words += f", above {mark.gt}, at most {high}"
    elif low is not None and abs(low) < _LARGE:
        words += f", {low} to {high}" if high is not None else f", at least {low}"
    return words, mark.description or ""


def _plain(hint: Any, marks: list[msgspec.Meta]) -> Iterator[Any]:
    """Yields the types that a union stands for, other than None, and adds what annotates them to `marks`."""
    origin = get_origin(hint)
    if origin is Annotated:
        inner, *found = get_args(hint)
        marks += found
        yield from _plain(inner, marks)
    elif origin in (Union, UnionType):
        for one in get_args(hint):
            yield from _plain(one, marks)
    elif hint is not type(None):
        yield hint


def _words(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return ", ".join(f"`{choice!r}`" for choice in get_args(kind)).replace("'", '"')
    names = {int: "integer", float: "number", bool: "`True` or `False`", str: "text"}
    if kind in names:
        return names[kind]
    plain = {
        "Sequence": "list",
        "Mapping": "dictionary",
        "dict": "dictionary",
        "type": "class",
        "PathLike": "path",
    }
    return plain.get(getattr(get_origin(kind), "__name__", ""), str(kind))


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
