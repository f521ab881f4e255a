"""Token ids of callers as arrays, checked in the same way by every engine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from deepwell.errors import InvalidRequest

__all__ = ["token_array"]


def token_array(
    tokens: Sequence[int], vocab_size: int, param: Literal["prompt", "input"]
) -> NDArray[np.int32]:
    """Returns token ids as an array: [len(tokens)]. There is at least one.

    Raises:
        InvalidRequest: they are not a list of integers, or one is outside of the vocabulary. It blames `param`.
    """
    array = np.asarray(tokens)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise InvalidRequest(f"the {param} is not a list of token ids", fix="send integers", param=param)
    low, high = int(array.min()), int(array.max())
    if low < 0 or high >= vocab_size:
        raise InvalidRequest(
            f"token id {low if low < 0 else high} is not in the vocabulary",
            fix=f"use ids from 0 to {vocab_size - 1}",
            param=param,
        )
    return array.astype(np.int32)
