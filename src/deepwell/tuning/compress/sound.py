"""Weights and names of strangers: NaN is refused, and a name stays a name in a model card and in its commands."""

from __future__ import annotations

import json
import math
import re
import shlex
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from deepwell.errors import InvalidModelFile, UnsupportedModel

__all__ = ["check_finite", "check_result", "in_command", "in_front_matter", "in_markdown"]

_MARKUP: Final = re.compile(r"([\\`*\[\]<>#|!])")
_LONGEST: Final = 120
_PLAIN: Final = re.compile(r"[A-Za-z][A-Za-z0-9._/-]*")
_YAML_WORDS: Final = frozenset({"false", "n", "no", "null", "off", "on", "true", "y", "yes"})


def check_finite(name: str, values: NDArray[Any], most: float = math.inf) -> None:
    """Checks that a tensor holds neither NaN nor infinity, nor a weight beyond a bound.

    Raises:
        InvalidModelFile: it does; a rounded or cut copy would hide it in a file that looks whole.
    """
    if not np.isfinite(values).all():
        raise InvalidModelFile(
            f"the weights of {name} hold NaN or infinity", fix="pull the model again, or take another source"
        )
    if most < math.inf and (largest := float(np.abs(values).max())) > most:
        raise InvalidModelFile(
            f"the weights of {name} reach {largest:.3g}, and the scales of a block {most:g}",
            fix="pull the model again, or take another source",
        )


def check_result(loss: float) -> None:
    """Checks that a finished model computes numbers.

    Raises:
        UnsupportedModel: its loss is none, so that nothing is written.
    """
    if not math.isfinite(loss):
        raise UnsupportedModel(
            f"the smaller model computes no numbers: its loss is {loss}",
            fix="check what the donor answers, leave out less of it, or recover it for fewer minutes",
        )


def in_markdown(name: str) -> str:
    """Returns the name of a model as text of Markdown: one line in which no character makes a link, a heading or HTML."""
    return _MARKUP.sub(r"\\\1", _line(name))


def in_front_matter(name: str) -> str:
    """Returns a name as a value of the YAML on top of a model card: one line, quoted unless it is plain there.

    Markup is written as escapes, because a viewer without front matter takes the line as Markdown.
    """
    line = _line(name)
    if _PLAIN.fullmatch(line) and line.lower() not in _YAML_WORDS:
        return line
    quoted = json.dumps(line, ensure_ascii=False)
    return _MARKUP.sub(lambda one: one[0] if one[0] == "\\" else f"\\u{ord(one[0]):04x}", quoted)


def in_command(name: str, otherwise: str) -> str:
    """Returns a name as an argument of a command in a code span, quoted for the shell.

    Args:
        otherwise: word to write in place of a name that a code span cannot hold.
    """
    return shlex.quote(name) if name and in_markdown(name) == name else otherwise


def _line(name: str) -> str:
    line = "".join(one if one.isprintable() else " " for one in name)
    return " ".join(line.split())[:_LONGEST]
