"""Events of a training process in OpenAI's words and metrics."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Measured", "finite", "measured", "plan_text", "whole"]


@dataclass(frozen=True, slots=True)
class Measured:
    """The figures of a step or of a validation.

    Attributes:
        data: metrics by their names.
        series: name of the curve that `value` belongs to; `value` is None where the training has no finite number.
    """

    text: str
    data: Mapping[str, Any]
    series: str
    value: float | None


def plan_text(event: Mapping[str, Any]) -> str:
    """Returns the message of a plan."""
    trainable, parameters, steps = (whole(event.get(one)) for one in ("trainable", "parameters", "steps"))
    share = f" ({100 * trainable / parameters:.3f} %)" if parameters else ""
    text = f"Training {trainable:,} of {parameters:,} parameters{share} in {steps:,} steps"
    dropped: Any = event.get("data", {}).get("dropped") if "answers" in event else None
    if "answers" in event:
        text += f" of {whole(event['answers']):,} answers"
    if isinstance(dropped, Mapping) and dropped:
        reasons = ", ".join(
            f"{count} {reason.replace('_', ' ')}" for reason, count in sorted(dropped.items())
        )
        text += f"; left out of the prompts: {reasons}"
    return text


def measured(event: Mapping[str, Any], total: int) -> Measured:
    """Returns the figures of an event `step` or `validation`."""
    step = whole(event.get("step"))
    trained = event["event"] == "step"
    prefix, name = ("train", "training") if trained else ("valid", "validation")
    if "reward" in event:
        value, noun = finite(event.get("reward")), "mean reward"
        data = {f"{prefix}_mean_reward": value}
        if trained:
            data["kl"] = finite(event.get("kl"))
        series = f"{name} reward"
    else:
        value, noun = finite(event.get("loss")), f"{name} loss"
        series = noun
        data = {f"{prefix}_loss": value, f"{prefix}_mean_token_accuracy": finite(event.get("token_accuracy"))}
    shown = "unknown" if value is None else f"{value:.4f}"
    noun = f"{name} {noun}" if "reward" in noun else noun
    known = {key: one for key, one in data.items() if one is not None}
    return Measured(f"Step {step}/{total}: {noun}={shown}", {"step": step} | known, series, value)


def finite(value: object) -> float | None:
    """Returns a finite number, or None: OpenAI's metrics have neither NaN nor infinity."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def whole(value: object) -> int:
    """Returns a number as a count; 0 for whatever is none."""
    number = finite(value)
    return 0 if number is None else max(0, int(number))
