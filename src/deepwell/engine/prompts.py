"""Token ids of callers as arrays, checked in the same way by every engine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from deepwell.engine.protocol import Capabilities
from deepwell.engine.window import Window, check_window
from deepwell.errors import ContextLengthExceeded, InvalidRequest

__all__ = ["checked_prompt", "first_row", "token_array"]


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


def checked_prompt(
    tokens: Sequence[int], max_tokens: int, window: Window | None, capabilities: Capabilities
) -> NDArray[np.int32]:
    """Checks a prompt against an engine's limits, and returns it as an array.

    Raises:
        ContextLengthExceeded: the prompt and `max_tokens` do not fit together, or the window does not fit.
        InvalidRequest: the model has no window, or the prompt is empty, is not a list of integers, or holds an id outside the
            vocabulary.
    """
    count, limit = len(tokens), capabilities.max_model_len
    if count == 0:
        raise InvalidRequest("the prompt is empty", fix="send at least one token", param="prompt")
    if window is not None and "window" in capabilities.lacks:
        raise InvalidRequest.of("window_of_entries", param="window", architecture=capabilities.architecture)
    if window is not None:
        check_window(window, count + max_tokens, limit)
    elif count + max_tokens > limit:
        fix = f"shorten the prompt by {count + max_tokens - limit} tokens"
        if count < limit:
            fix += f" or ask for max_tokens <= {limit - count}"
        raise ContextLengthExceeded(
            f"the context holds {limit} tokens; the prompt has {count}, max_tokens is {max_tokens}",
            fix=f"{fix}, or start with a larger --context",
            param="max_tokens" if count < limit else "prompt",
        )
    return token_array(tokens, capabilities.vocab_size, "prompt")


def first_row(prompt: NDArray[np.int32], start: int, param: str) -> int:
    """Returns the row that scores token `start` of a prompt.

    Raises:
        InvalidRequest: there is no such row.
    """
    if not 1 <= start <= len(prompt):
        raise InvalidRequest(
            f"scores cannot start at token {start} of {len(prompt)}",
            fix="start behind the first token",
            param=param,
        )
    return start - 1
