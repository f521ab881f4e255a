"""`check_finite`: weights that any arithmetic of a compression would spread over the whole model are refused."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepwell.errors import InvalidModelFile

__all__ = ["check_finite"]


def check_finite(name: str, values: NDArray[Any]) -> None:
    """Checks that a tensor holds neither NaN nor infinity.

    Raises:
        InvalidModelFile: it does; a rounded or cut copy would hide it in a file that looks whole.
    """
    if not np.isfinite(values).all():
        raise InvalidModelFile(
            f"the weights of {name} hold NaN or infinity", fix="pull the model again, or take another source"
        )
