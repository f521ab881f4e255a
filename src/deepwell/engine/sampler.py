"""Drawing a token from a row of logits, reproducibly.

Everything is a pure function of the row and the request, so a draw does not depend on batch mates. Weights
are whole numbers up to 2^34 held in float64: sums of up to 2^19 of them are exact in any order, hence the cut
of `top_p` and the draw itself are exact too, and no sort of the vocabulary is needed to keep them so.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from deepwell.engine.protocol import SamplingParams, TokenLogprob
from deepwell.errors import DeepwellError, InvalidRequest

__all__ = [
    "GREEDY_BELOW",
    "check_params",
    "draw",
    "log_normalizer",
    "token_logprob",
    "uniform",
]

GREEDY_BELOW = 1e-5  # temperatures below it are greedy, as in vLLM: logits / 1e-6 overflow float32
MAX_LOGPROBS = 100
_ONE = 2.0**34  # weight of the most likely token
_LIKELY = np.float32(
    2.0**-10
)  # nearly always, the nucleus lies above this fraction of the highest probability
_MASK = (1 << 64) - 1


def check_params(params: SamplingParams, vocab_size: int) -> None:
    """Refuse what can not be sampled.

    Raises:
        InvalidRequest: names the parameter and its range.
    """

    def number(name: str, low: float, high: float = math.inf) -> None:
        value = getattr(params, name)
        if not low <= value <= high or math.isinf(value):  # a NaN fails as well
            upper = "" if math.isinf(high) else f" and at most {high:g}"
            raise InvalidRequest(
                f"{name} is {value}", fix=f"use a value of at least {low:g}{upper}", param=name
            )

    number("max_tokens", 0)
    number("min_tokens", 0)
    number("temperature", 0)
    number("top_k", 0)
    number("top_p", 0, 1)
    number("min_p", 0, 1)
    number("presence_penalty", -2, 2)
    number("frequency_penalty", -2, 2)
    number("repetition_penalty", 1e-2, 100)
    for name in ("logprobs", "prompt_logprobs"):
        if getattr(params, name) is not None:
            number(name, 0, min(MAX_LOGPROBS, vocab_size))
    for token, bias in params.logit_bias.items():
        if not 0 <= token < vocab_size or not -100 <= bias <= 100:
            raise InvalidRequest(
                f"logit_bias maps token {token} to {bias}",
                fix=f"use token ids from 0 to {vocab_size - 1} and biases from -100 to 100",
                param="logit_bias",
            )


def uniform(seed: int, choice: int, position: int) -> float:
    """A number in [0, 1) with 53 random bits, a hash of its arguments (splitmix64).

    `position` is the index of the drawn token in its sequence: no state is carried from draw to draw, so a
    request that was preempted, or is continued from its own output, draws the same.
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
) -> int:
    """The next token.

    Order as in vLLM: mask, bias, repetition, frequency and presence penalties; temperature; min-p; top-k;
    top-p.

    Args:
        logits: [vocab], left as they are.
        tokens: prompt and generated tokens so far; the first `num_prompt` are the prompt.
        masked: the tokens that end the sequence; they are out of the question below `min_tokens`.
        u: a number in [0, 1), see `uniform`.

    Raises:
        DeepwellError: the row has no finite maximum.
    """
    x = logits.copy()
    if masked and len(tokens) - num_prompt < params.min_tokens:
        x[list(masked)] = -np.inf
    for token, bias in params.logit_bias.items():
        x[token] += np.float32(bias)
    _penalize(x, params, tokens, tokens[num_prompt:])
    if params.temperature < GREEDY_BELOW:
        return int(x.argmax())

    high = x.max()
    if not np.isfinite(high):
        raise DeepwellError(f"the model's logits have the maximum {high}", fix="check the model's weights")
    x -= high
    x *= np.float32(1 / params.temperature)
    probabilities = np.exp(x, out=x)  # relative to the most likely token's, 1
    kept = None if params.min_p == 0 else np.flatnonzero(probabilities >= np.float32(params.min_p))
    if 0 < params.top_k < len(probabilities):
        kept = _top_k(probabilities, kept, params.top_k)
    if kept is not None:
        probabilities = probabilities[kept]
    weights = np.multiply(probabilities, _ONE, dtype=np.float64)
    np.floor(weights, out=weights)
    total = float(weights.sum())
    if params.top_p < 1:
        chosen = _top_p(probabilities, weights, max(1, math.ceil(params.top_p * total)))
        weights = weights[chosen]
        kept = chosen if kept is None else kept[chosen]
        total = float(weights.sum())
    target = min(math.floor(u * total), total - 1)
    index = int(np.searchsorted(np.cumsum(weights), target, side="right"))
    return index if kept is None else int(kept[index])


def _penalize(
    x: NDArray[np.float32], params: SamplingParams, tokens: NDArray[np.int32], generated: NDArray[np.int32]
) -> None:
    """In place. A token that occurs twice is gathered twice and written twice with the same value."""
    if params.repetition_penalty != 1:
        seen = x[tokens]
        penalty = np.float32(params.repetition_penalty)
        x[tokens] = np.where(seen > 0, seen / penalty, seen * penalty)
    if len(generated) and (params.frequency_penalty != 0 or params.presence_penalty != 0):
        counts = np.bincount(generated)[generated].astype(np.float32)
        counts *= np.float32(params.frequency_penalty)
        counts += np.float32(params.presence_penalty)
        x[generated] = x[generated] - counts


def _top_k(probabilities: NDArray[np.float32], kept: NDArray[np.intp] | None, k: int) -> NDArray[np.intp]:
    """Ids, ascending, of the k most likely tokens among `kept`; of equal ones, the lowest ids."""
    p = probabilities if kept is None else probabilities[kept]
    if len(p) <= k:
        chosen = np.arange(len(p))
    else:
        likely = np.flatnonzero(p >= _LIKELY)
        if len(likely) >= k:
            chosen = likely[_cut(p[likely], np.ones(len(likely)), k)]
        else:
            chosen = _cut(p, np.ones(len(p)), k)
    return chosen if kept is None else kept[chosen]


def _top_p(probabilities: NDArray[np.float32], weights: NDArray[np.float64], mass: int) -> NDArray[np.intp]:
    """Indices, ascending, of the fewest most likely tokens whose weights reach `mass`."""
    likely = np.flatnonzero(probabilities >= _LIKELY)
    if weights[likely].sum() >= mass:
        return likely[_cut(probabilities[likely], weights[likely], mass)]
    return _cut(probabilities, weights, mass)


def _cut(keys: NDArray[np.float32], weights: NDArray[np.float64], mass: int) -> NDArray[np.intp]:
    """Indices, ascending, of the fewest items, by descending key then index, whose weights reach `mass`.

    A radix select on the bits of the keys, which order as the floats in [0, 1] do: the upper half finds a
    bucket, the lower half the key, so two passes replace a sort. `weights` are whole numbers and equal for
    equal keys; they sum to >= `mass`.
    """
    bits = keys.view(np.int32)
    upper = bits >> 16
    bucket, above = _boundary(upper, weights, mass)
    inside = np.flatnonzero(upper == bucket)
    lower = bits[inside] & 0xFFFF
    key, above = _boundary(lower, weights[inside], mass, above)
    ties = inside[lower == key]
    needed = -(-(mass - above) // int(weights[ties[0]]))
    chosen = bits > (bucket << 16 | key)
    chosen[ties[:needed]] = True
    return np.flatnonzero(chosen)


def _boundary(
    keys: NDArray[np.int32], weights: NDArray[np.float64], mass: int, above: int = 0
) -> tuple[int, int]:
    """The key at which the cumulative weight, descending from `above`, reaches `mass`; the weight above."""
    low = int(keys.min())
    sums = np.bincount(keys - low, weights)[::-1]
    cumulative = np.cumsum(sums)
    index = int(np.searchsorted(cumulative, mass - above, side="left"))
    return low + len(sums) - 1 - index, above + int(cumulative[index] - sums[index])


def log_normalizer(logits: NDArray[np.float32]) -> float:
    """log(sum(exp(logits))): subtracting it turns a logit into a log probability."""
    high = logits.max()
    return float(high) + math.log(float(np.exp(logits - high).sum(dtype=np.float64)))


def token_logprob(logits: NDArray[np.float32], normalizer: float, token: int, top: int) -> TokenLogprob:
    """The log probability of `token` under the model's own distribution, and the `top` most likely tokens."""
    value = logits[token]
    rank = 1 + int(np.count_nonzero(logits > value))
    best: tuple[tuple[int, float], ...] = ()
    if top:
        floor = np.partition(logits, len(logits) - top)[len(logits) - top]
        candidates = np.flatnonzero(logits >= floor)
        order = np.argsort(-logits[candidates], kind="stable")[:top]
        best = tuple((int(t), float(logits[t]) - normalizer) for t in candidates[order])
    return TokenLogprob(token, float(value) - normalizer, rank, best)
