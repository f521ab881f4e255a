"""Errors in the words of Python: arguments where the command line has flags."""

from __future__ import annotations

import re
from typing import TypeVar

from deepwell.errors import DeepwellError

__all__ = ["in_python"]

E = TypeVar("E", bound=DeepwellError)

_VALUE = re.compile(r"--([a-z][a-z-]*)[ =](auto|off|model|[a-z]+[0-9]+(?:-full)?|[0-9]+)\b")
_FLAG = re.compile(r"(flag )?--([a-z][a-z-]*)")


def in_python(error: E) -> E:
    """Returns an error of the same class that names arguments, as `precision="int4"`, in place of flags."""
    message, fix = _reworded(error.message), _reworded(error.fix)
    if (message, fix) == (error.message, error.fix):
        return error
    other = type(error)(message, fix=fix, param=error.param)
    other.code = error.code
    return other


def _reworded(text: str) -> str:
    """Returns a text with arguments for flags. What stands in backticks is a command, and stays."""
    parts = text.split("`")
    return "`".join(part if number % 2 else _without_flags(part) for number, part in enumerate(parts))


def _without_flags(text: str) -> str:
    return _FLAG.sub(_name, _VALUE.sub(_argument, text))


def _name(found: re.Match[str]) -> str:
    name = found[2].replace("-", "_")
    return f"argument {name}" if found[1] else f"{name}="


def _argument(found: re.Match[str]) -> str:
    name, value = found[1].replace("-", "_"), found[2]
    return f"{name}={value}" if value.isdigit() else f'{name}="{value}"'
