"""Weights and names of strangers: NaN is refused, and a name stays a name in a model card."""

from __future__ import annotations

import math
import re
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from deepwell.errors import InvalidModelFile, UnsupportedModel

__all__ = ["check_finite", "check_result", "in_markdown"]

_MARKUP: Final = re.compile(r"([\\`*\[\]<>#|!])")
_LONGEST: Final = 120


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
    line = "".join(one if one.isprintable() else " " for one in name)
    return _MARKUP.sub(r"\\\1", " ".join(line.split())[:_LONGEST])
