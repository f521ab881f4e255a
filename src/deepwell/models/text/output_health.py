"""Measures the stability of an output: repetition, the spread of its tokens, and their likelihood to the model."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

__all__ = ["Advice", "Health", "Settings", "advise", "measure"]

_GRAM = 4  # tokens; ordinary prose repeats fewer than 5 % of its runs of four
_WINDOW = 128  # tokens per entropy measurement; the size is fixed because entropy grows with length
_COOLEST = 0.2  # below, outputs are nearly greedy, and greedy ones loop
_FEW = 24  # outputs with fewer tokens cannot be judged


@dataclass(frozen=True, slots=True)
class Settings:
    """Sampling settings of the output."""

    temperature: float = 1.0
    top_p: float = 1.0
    repetition_penalty: float = 1.0


@dataclass(frozen=True, slots=True)
class Health:
    """Measures of one output.

    Attributes:
        repeated: share of four-token runs that occurred before.
        loop_period: length in tokens of the cycle that the output ends in; 0 if there is none.
        loop_tokens: number of tokens that this cycle covers.
        entropy_bits: mean entropy of the token distribution over windows of 128 tokens; prose has about 6.
        surprise_bits: mean of -log2 p over the tokens, with the model's own p; None without log probabilities.
        unlikely: share of tokens with p < 1 %; None without log probabilities.
    """

    tokens: int
    repeated: float
    loop_period: int
    loop_tokens: int
    entropy_bits: float
    surprise_bits: float | None
    unlikely: float | None
    finish_reason: str | None

    def shown(self) -> dict[str, Any]:
        """Returns the measures, rounded."""
        return {k: round(v, 3) if isinstance(v, float) else v for k, v in asdict(self).items()}


@dataclass(frozen=True, slots=True)
class Advice:
    """A finding, and the setting to change.

    Attributes:
        change: the sampling parameter with its new value; empty where no parameter helps.
    """

    finding: str
    move: str
    change: Mapping[str, float] = field(default_factory=dict[str, float])

    def shown(self) -> dict[str, Any]:
        """Returns the advice as a JSON object."""
        return asdict(self)


def measure(
    tokens: Sequence[int], logprobs: Sequence[float] | None = None, finish_reason: str | None = None
) -> Health:
    """Measures an output from its tokens and, if known, their natural log probabilities."""
    runs = [tuple(tokens[i : i + _GRAM]) for i in range(len(tokens) - _GRAM + 1)]
    repeated = 1 - len(set(runs)) / len(runs) if runs else 0.0
    period, covered = _loop(tokens)
    windows = [tokens[i : i + _WINDOW] for i in range(0, len(tokens), _WINDOW)]
    full = [window for window in windows if len(window) == _WINDOW] or windows[:1]
    entropy = sum(map(_entropy, full)) / max(len(full), 1)
    surprise = unlikely = None
    if logprobs:
        surprise = -sum(logprobs) / len(logprobs) / math.log(2)
        unlikely = sum(value < math.log(0.01) for value in logprobs) / len(logprobs)
    return Health(len(tokens), repeated, period, covered, entropy, surprise, unlikely, finish_reason)


def advise(health: Health, drawn: Settings) -> list[Advice]:
    """Returns the changes to make, most important first. Each names one setting and the value to try."""
    if health.tokens < _FEW:
        return [Advice(f"{health.tokens} tokens are too few to tell", f"send at least {_FEW}")]
    found: list[Advice] = []
    loops = health.loop_tokens >= max(_FEW, 3 * health.loop_period)
    if loops or health.repeated > 0.2:
        what = (
            f"it ends in a loop of {health.loop_period} tokens, {health.loop_tokens} in all"
            if loops
            else f"{health.repeated:.0%} of its runs of {_GRAM} tokens occurred before"
        )
        change: dict[str, float] = {}
        if drawn.temperature < 0.3:
            change = {"temperature": 0.7}
            move = f"temperature is {drawn.temperature:g}: raise it to 0.7, for a greedy output never leaves a loop"
        elif drawn.repetition_penalty < 1.1:
            change = {"repetition_penalty": 1.1}
            move = f"repetition_penalty is {drawn.repetition_penalty:g}: raise it to 1.1"
        elif drawn.repetition_penalty < 1.25:
            change = {"repetition_penalty": 1.25}
            move = f"repetition_penalty is {drawn.repetition_penalty:g} already: try 1.25, or presence_penalty 0.5"
        else:
            move = "penalties are high already: give the model more to go by, bound it with max_tokens or a schema"
        found.append(Advice(what, move, change))
    noisy = (health.surprise_bits is not None and health.surprise_bits > 4) or (
        health.unlikely is not None and health.unlikely > 0.15
    )
    if noisy:
        what = f"its tokens were unlikely to the model: {health.surprise_bits:.1f} bits each"
        if drawn.repetition_penalty > 1.15:
            change = {"repetition_penalty": 1.05}
            move = f"repetition_penalty is {drawn.repetition_penalty:g}: lower it to 1.05, it forbids common words"
        elif drawn.top_p > 0.9:
            change = {"top_p": 0.9}
            move = f"top_p is {drawn.top_p:g}: lower it to 0.9, which cuts the tail off"
        else:
            change, move = _cooler(drawn)
        found.append(Advice(what, move, change))
    elif health.surprise_bits is None and not found and health.entropy_bits > 6.8:
        what = f"its tokens are spread wide ({health.entropy_bits:.1f} bits): it may wander"
        if drawn.top_p > 0.9:
            change, move = {"top_p": 0.9}, f"top_p is {drawn.top_p:g}: lower it to 0.9"
        else:
            change, move = _cooler(drawn)
        hint = "; ask for logprobs and send the JSON, which shows how sure the model was"
        found.append(Advice(what, move + hint, change))
    if health.finish_reason == "length" and not loops:
        found.append(
            Advice(
                "it was cut off at max_tokens", "raise max_tokens, or ask for a shorter answer in the prompt"
            )
        )
    return found or [Advice("it neither repeats itself nor wanders", "leave the settings as they are")]


def _cooler(drawn: Settings) -> tuple[dict[str, float], str]:
    """Returns a lower temperature, and the words for it. One that is low already leaves the model's knowledge to blame."""
    if drawn.temperature <= _COOLEST:
        return (
            {},
            "the temperature is low already: ground the answers in documents (--knowledge NAME), or take a larger model",
        )
    lower = max(drawn.temperature / 2, _COOLEST)
    return {"temperature": lower}, f"temperature is {drawn.temperature:g}: lower it to {lower:g}"


def _loop(tokens: Sequence[int]) -> tuple[int, int]:
    """Returns the period of the final cycle and the tokens it covers, at least two rounds; (0, 0) if there is none."""
    best = (0, 0)
    count = len(tokens)
    for period in range(1, min(count // 2, 200) + 1):
        same = 0
        while same < count - period and tokens[count - 1 - same] == tokens[count - 1 - same - period]:
            same += 1
        if same >= period and same + period > best[1]:
            best = (period, same + period)
    return best


def _entropy(tokens: Sequence[int]) -> float:
    counts = Counter(tokens).values()
    total = sum(counts)
    return -sum(count / total * math.log2(count / total) for count in counts)
