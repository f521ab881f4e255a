"""The embedding of a request's texts with one served model: checked, admitted, metered and computed together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from deepwell.dialogue.model import PromptTooLong, ServedModel
from deepwell.errors import ContextLengthExceeded, InvalidRequest
from deepwell.server.answering import Answering
from deepwell.server.observe.generation import embedding
from deepwell.server.together import together

__all__ = ["MAX_TOKENS", "check_dimensions", "embed_inputs", "encode_inputs", "shortened"]

MAX_TOKENS = 300_000
"""The most tokens of all inputs of a request together, as at OpenAI."""


def check_dimensions(model: ServedModel, dimensions: int | None) -> None:
    """Checks that the model's vectors have as many dimensions.

    Raises:
        InvalidRequest: they have fewer.
    """
    size = model.capabilities.hidden_size
    if dimensions is not None and dimensions > size:
        raise InvalidRequest(
            f"the model's vectors have {size} dimensions, {dimensions} were asked for",
            fix=f"ask for dimensions from 1 to {size}",
            param="dimensions",
        )


async def encode_inputs(model: ServedModel, inputs: Sequence[str | list[int]], param: str) -> list[list[int]]:
    """Returns the tokens of every input. `param` is the route's name for them.

    Raises:
        ContextLengthExceeded: an input has more tokens than the context. Nothing is ever cut to make it fit.
        InvalidRequest: an input is empty, or all have more than `MAX_TOKENS` together.
    """
    window = model.capabilities.max_model_len
    try:
        encoded = await model.encode_prompts(inputs, param)
    except PromptTooLong as error:
        least = "" if error.exact else "at least "
        raise _too_long(window, param, error.index, f"{least}{error.tokens}") from None
    for index, tokens in enumerate(encoded):
        if len(tokens) > window:
            raise _too_long(window, param, index, str(len(tokens)))
    total = sum(map(len, encoded))
    if total > MAX_TOKENS:
        raise InvalidRequest(
            f"the inputs have {total} tokens together, and {MAX_TOKENS} are allowed",
            fix="send fewer inputs in a request",
            param=param,
        )
    return encoded


def _too_long(window: int, param: str, index: int, tokens: str) -> ContextLengthExceeded:
    return ContextLengthExceeded(
        f"this model's maximum context length is {window} tokens, but {param} {index} has {tokens}",
        fix="split it",
        param=param,
    )


async def embed_inputs(
    answering: Answering, adapter: str, inputs: Sequence[list[int]], dimensions: int | None
) -> list[NDArray[np.float32]]:
    """Returns the vectors of all inputs, computed together. The first failure cancels the others.

    Args:
        dimensions: number of leading dimensions to keep, at unit length; None: all.
    """
    model = answering.model
    with embedding(answering.metrics, model.name, sum(map(len, inputs))):
        vectors = await together(model.engine.embed(tokens, adapter=adapter) for tokens in inputs)
    return [shortened(vector, dimensions) for vector in vectors]


def shortened(vector: NDArray[np.float32], dimensions: int | None) -> NDArray[np.float32]:
    """Returns the first dimensions at unit length, as OpenAI shortens its own vectors."""
    if dimensions is None or dimensions == len(vector):
        return vector
    short = vector[:dimensions]
    length = float(np.linalg.norm(short))
    return short / np.float32(length) if length else short
