"""Weights and names of strangers: NaN is refused, and a name stays a name in a model card."""

from __future__ import annotations

import re
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from deepwell.errors import InvalidModelFile

__all__ = ["check_finite", "in_markdown"]

_MARKUP: Final = re.compile(r"([\\`*\[\]<>#|!])")
_LONGEST: Final = 120


def check_finite(name: str, values: NDArray[Any]) -> None:
    """Checks that a tensor holds neither NaN nor infinity.

    Raises:
        InvalidModelFile: it does; a rounded or cut copy would hide it in a file that looks whole.
    """
    if not np.isfinite(values).all():
        raise InvalidModelFile(
            f"the weights of {name} hold NaN or infinity", fix="pull the model again, or take another source"
        )


def in_markdown(name: str) -> str:
    """Returns the name of a model as text of Markdown: one line in which no character makes a link, a heading or HTML."""
    line = "".join(one if one.isprintable() else " " for one in name)
    return _MARKUP.sub(r"\\\1", " ".join(line.split())[:_LONGEST])
