"""The verbs of the command line as a list, with their parameters."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import typer
from typer import Context
from typer.models import ArgumentInfo, OptionInfo

__all__ = ["Parameter", "Verb", "verbs"]


@dataclass(frozen=True, slots=True)
class Parameter:
    """An argument or an option of a verb.

    Attributes:
        name: parameter of the verb's function.
        shown: what is written on the command line, such as `--port` or `MODEL`.
        values: the kind of value; empty for a switch and an argument.
        default: the value of one that is left out, as text; empty where there is none.
    """

    name: str
    shown: str
    values: str
    default: str
    help: str
    is_option: bool
    required: bool


@dataclass(frozen=True, slots=True)
class Verb:
    """One command, such as `models list`, with its help."""

    path: str
    help: str
    usage: str
    parameters: tuple[Parameter, ...]


def verbs() -> list[Verb]:
    """Returns every verb that does something, in the order of the help."""
    from deepwell.cli import app

    root: Any = typer.main.get_command(app)
    return [verb for name, one in root.commands.items() for verb in _walk(one, name)]


def _walk(command: Any, path: str) -> Iterator[Verb]:
    """Yields the verbs at and under a command."""
    under = getattr(command, "commands", {})
    if not under or command.invoke_without_command:
        yield _verb(command, path)
    for name, one in under.items():
        if not one.hidden:
            yield from _walk(one, f"{path} {name}")


def _verb(command: Any, path: str) -> Verb:
    function = inspect.unwrap(command.callback)
    # The parts behind \f are for readers of the code (click).
    text = "\n\n".join(
        " ".join(part.split()) for part in (command.help or "").split("\f")[0].strip().split("\n\n")
    )
    found = tuple(_parameters(function))
    arguments = [one.shown if one.required else f"[{one.shown}]" for one in found if not one.is_option]
    under = ["[COMMAND]"] if getattr(command, "commands", None) else []
    return Verb(path, text, " ".join(["deepwell", path, "[OPTIONS]", *arguments, *under]), found)


def _parameters(function: Callable[..., Any]) -> Iterator[Parameter]:
    """Yields the parameters of a verb's function, which are the same in every version of typer."""
    hints = get_type_hints(function, include_extras=True)
    for name, one in inspect.signature(function).parameters.items():
        kind, *marks = get_args(hints[name]) if get_origin(hints[name]) is Annotated else (hints[name],)
        info = next((mark for mark in marks if isinstance(mark, OptionInfo | ArgumentInfo)), None)
        required = one.default is inspect.Parameter.empty
        default = "" if required or one.default in (None, "") or kind is bool else str(one.default)
        if isinstance(info, ArgumentInfo):
            shown = info.metavar or name.upper()
            yield Parameter(name, shown, "", default, " ".join((info.help or "").split()), False, required)
        elif kind is not Context:
            # In an annotation, the first of the names stands where a default would.
            first = (info.default,) if info and isinstance(info.default, str) else ()
            flags = (*first, *(info.param_decls or ())) if info else ()
            if not flags:
                flag = name.replace("_", "-")
                flags = (f"--{flag}", f"--no-{flag}") if kind is bool else (f"--{flag}",)
            text = " ".join((info.help or "").split()) if info else ""
            values = "" if kind in (bool, bool | None) else _values(kind, info)
            yield Parameter(name, ", ".join(flags), values, default, text, True, required)


def _values(kind: Any, info: OptionInfo | None) -> str:
    """Returns the values that an option takes, in words."""
    kinds = (
        [one for one in get_args(kind) if one is not type(None)]
        if get_origin(kind) in (UnionType, Union)
        else [kind]
    )
    kind = get_args(kinds[0])[0] if get_origin(kinds[0]) is list else kinds[0]
    if get_origin(kind) is Literal:
        return " or ".join(f"`{choice}`" for choice in get_args(kind))
    words = {str: "text", int: "integer", float: "number", Path: "path"}[kind]
    low, high = (info.min, info.max) if info else (None, None)
    if low is not None and high is not None:
        return f"{words}, {low:g} to {high:g}"
    return f"{words}, at least {low:g}" if low is not None else words
