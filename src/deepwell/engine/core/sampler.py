"""Draws tokens from rows of logits, reproducibly.

Everything is a pure function of the row and the request, so a draw does not depend on the rest of the batch. The weight
of a token is its probability relative to that of the most likely token, as an integer up to 2^34. Sums of up to 2^19
weights are exact in float64 in any order, and therefore so are the cut of `top_p` and the draw.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from deepwell.engine.protocol import SamplingParams, TokenLogprob
from deepwell.errors import DeepwellError

__all__ = [
    "GREEDY_BELOW",
    "draw",
    "log_normalizer",
    "token_logprob",
    "uniform",
]

GREEDY_BELOW = 1e-5  # lower temperatures are greedy, as in vLLM, because logits / 1e-6 overflow float32
_ONE = np.float32(2.0**34)  # weight of the most likely token
_LEVELS = tuple(
    map(np.float32, (2.0**24, 2.0**20, 2.0**16, 1))
)  # from which on the largest weights are looked for
_PIECE = 256  # weights summed at once in `_place`
_MASK = (1 << 64) - 1


def uniform(seed: int, choice: int, position: int) -> float:
    """Returns a number in [0, 1) with 53 random bits, a hash of its arguments (splitmix64).

    `position` is the index of the drawn token in its sequence. No state is carried between draws, so a request that was
    preempted, or is continued from its own output, draws the same tokens.
    """
    z = seed & _MASK
    for value in (choice, position):
        z = (z + (value + 1) * 0x9E3779B97F4A7C15) & _MASK
        z = ((z ^ z >> 30) * 0xBF58476D1CE4E5B9) & _MASK
        z = ((z ^ z >> 27) * 0x94D049BB133111EB) & _MASK
        z ^= z >> 31
    return (z >> 11) * 2.0**-53


def draw(
    logits: NDArray[np.float32],
    params: SamplingParams,
    *,
    tokens: NDArray[np.int32],
    num_prompt: int,
    masked: frozenset[int],
    u: float,
    allowed: NDArray[np.bool_] | None = None,
) -> int:
    """Draws the next token.

    The order is that of vLLM: mask, bias, repetition, frequency and presence penalties; temperature; min-p; top-k; top-p.

    Args:
        logits: [vocab], left unchanged.
        tokens: prompt and generated tokens so far; the first `num_prompt` are the prompt.
        masked: the tokens that end the sequence; they are not drawn below `min_tokens`.
        u: a number in [0, 1), see `uniform`.
        allowed: [vocab], the tokens that a grammar allows next; None: all.

    Raises:
        DeepwellError: the row has no finite maximum.
    """
    if allowed is not None and _is_argmax(params):
        best = int(logits.argmax())
        if allowed[best] and np.isfinite(logits[best]):  # masking the row would take longer
            return best
    x = logits.copy() if allowed is None else np.where(allowed, logits, np.float32(-np.inf))
    if masked and len(tokens) - num_prompt < params.min_tokens:
        x[list(masked)] = -np.inf
    for token, bias in params.logit_bias.items():
        x[token] += np.float32(bias)
    _penalize(x, params, tokens, tokens[num_prompt:])
    if params.temperature < GREEDY_BELOW:
        best = int(x.argmax())
        if not x[best] < np.inf:  # of a row with NaN, argmax names the NaN
            raise _no_maximum(x[best])
        return best

    high = x.max()
    if not np.isfinite(high):
        raise _no_maximum(high)
    x -= high
    x *= np.float32(1 / params.temperature)
    weights = np.exp(x, out=x)
    weights *= _ONE
    np.floor(weights, out=weights)

    if params.min_p > 0:
        weights *= weights >= _ONE * np.float32(params.min_p)
    if 0 < params.top_k < len(weights):
        _top_k(weights, params.top_k)
    if params.top_p < 1:
        _top_p(weights, params.top_p)
    return _place(weights, int(u * 2.0**53) * _sum(weights) >> 53)


def _no_maximum(high: np.float32) -> DeepwellError:
    return DeepwellError(f"the model's logits have the maximum {high}", fix="check the model's weights")


def _is_argmax(params: SamplingParams) -> bool:
    """Returns whether the token is the largest of the allowed logits as they are."""
    penalties = (params.repetition_penalty, params.frequency_penalty, params.presence_penalty)
    plain = penalties == (1, 0, 0) and not params.logit_bias and not params.min_tokens
    return plain and params.temperature < GREEDY_BELOW


def _penalize(
    x: NDArray[np.float32], params: SamplingParams, tokens: NDArray[np.int32], generated: NDArray[np.int32]
) -> None:
    """Applies the penalties in place. A token that occurs twice is read and written twice with the same value."""
    if params.repetition_penalty != 1:
        seen = x[tokens]
        penalty = np.float32(params.repetition_penalty)
        x[tokens] = np.where(seen > 0, seen / penalty, seen * penalty)
    if len(generated) and (params.frequency_penalty != 0 or params.presence_penalty != 0):
        counts = np.bincount(generated)[generated].astype(np.float32)
        counts *= np.float32(params.frequency_penalty)
        counts += np.float32(params.presence_penalty)
        x[generated] = x[generated] - counts


def _top_k(weights: NDArray[np.float32], k: int) -> None:
    """Zeroes all but the k largest weights. Among equal weights, the first stay."""
    some = weights
    for level in _LEVELS:  # usually a few weights hold the k largest
        some = weights[weights >= level]
        if len(some) >= k:
            break
    if len(some) < k:
        return
    least = np.partition(some, len(some) - k)[len(some) - k]
    _cut(weights, least, k - int(np.count_nonzero(weights > least)))


def _top_p(weights: NDArray[np.float32], top_p: float) -> None:
    """Zeroes all but the fewest weights, largest first, that make up `top_p` of the sum. At least one stays."""
    mass = max(1, math.ceil(top_p * _sum(weights)))
    some = weights
    for level in _LEVELS:  # usually a few weights make up the mass
        some = weights[weights >= level]
        if _sum(some) >= mass:
            break
    ascending = np.sort(some)
    first = _place(ascending, _sum(ascending) - mass)
    least: np.float32 = ascending[first]
    _cut(weights, least, int(np.searchsorted(ascending, least, side="right")) - first)


def _cut(weights: NDArray[np.float32], least: np.float32, ties: int) -> None:
    """Zeroes the weights below `least`, and all but the first `ties` that equal it."""
    weights *= weights >= least  # indexing with a mask would mispredict every other branch
    weights[np.flatnonzero(weights == least)[ties:]] = 0


def _sum(weights: NDArray[np.float32]) -> int:
    return int(weights.sum(dtype=np.float64))


def _place(weights: NDArray[np.float32], target: int) -> int:
    """Returns the first index up to which the weights sum to more than `target`."""
    starts = np.arange(0, len(weights), _PIECE)
    cumulative = np.cumsum(np.add.reduceat(weights, starts, dtype=np.float64))
    piece = int(np.searchsorted(cumulative, target, side="right"))
    before = int(cumulative[piece - 1]) if piece else 0
    inside = np.cumsum(weights[piece * _PIECE : (piece + 1) * _PIECE], dtype=np.float64)
    return piece * _PIECE + int(np.searchsorted(inside, target - before, side="right"))


def log_normalizer(logits: NDArray[np.float32]) -> float:
    """Returns log(sum(exp(logits))). Subtracting it turns a logit into a log probability."""
    high = logits.max()
    return float(high) + math.log(float(np.exp(logits - high).sum(dtype=np.float64)))


def token_logprob(logits: NDArray[np.float32], normalizer: float, token: int, top: int) -> TokenLogprob:
    """Returns the log probability of `token` in the model's own distribution, and the `top` most likely tokens."""
    value = logits[token]
    rank = 1 + int(np.count_nonzero(logits > value))
    best: tuple[tuple[int, float], ...] = ()
    if top:
        floor = np.partition(logits, len(logits) - top)[len(logits) - top]
        candidates = np.flatnonzero(logits >= floor)
        order = np.argsort(-logits[candidates], kind="stable")[:top]
        best = tuple((int(t), float(logits[t]) - normalizer) for t in candidates[order])
    return TokenLogprob(token, float(value) - normalizer, rank, best)
