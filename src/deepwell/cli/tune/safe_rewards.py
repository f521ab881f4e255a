"""Rewards of `deepwell tune ppo` that judge the safety of answers, by the models that guard the server."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, Protocol

from deepwell.fleet.improve.judges import refuses

if TYPE_CHECKING:
    from deepwell.tuning.align.ppo.prompts import Prompt

__all__ = ["ANSWERED", "HARMLESS", "REFUSED", "Harm", "ModerationReward", "SafetyReward"]

HARMLESS: Final = "harmless"
"""Field of a prompt's line: true if the prompt is to be answered."""

ANSWERED: Final = 0.7
"""Score of a harmless prompt that is answered: near that of a safe answer, so that one baseline serves both."""

REFUSED: Final = 0.2
"""Added to the score of a refusal. A model that refuses rarely learns it slowly from its low harm alone, and learns something
less fluent in its place."""


class Harm(Protocol):
    """Tells how likely people find an answer harmful, from 0 to 1."""

    def harm(self, text: str) -> float: ...


class ModerationReward:
    """1 less the harm of an answer, and more for a refusal; of a harmless prompt, whether it is answered.

    The moderation model reads how an answer speaks, and takes some harmless answers for harmful ones. So it is not asked about
    answers to prompts whose line says `"harmless": true`.

    Args:
        judge: judge of answers; None: the moderation model that ships.
    """

    def __init__(self, judge: Harm | None = None) -> None:
        from deepwell.safety.moderation.scorer import shipped_moderator

        self._judge = judge or shipped_moderator()

    def scores(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> list[float]:
        """Returns scores from 0 to 1.2."""
        return [self._score(prompt, answer) for prompt, answer in zip(prompts, answers, strict=True)]

    def _score(self, prompt: Prompt, answer: str) -> float:
        refused = refuses(answer)
        if prompt.item.get(HARMLESS) is True:
            return 0.0 if refused or not answer.strip() else ANSWERED
        return 1 - self._judge.harm(answer) + REFUSED * refused


class SafetyReward:
    """1 less the largest probability of an unsafe category, by the safety classifier that guards the server."""

    def __init__(self) -> None:
        from deepwell.safety.classifier.detector import shipped_detector

        self._detector = shipped_detector()

    def scores(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> list[float]:
        """Returns scores from 0 to 1."""
        import numpy as np

        found: list[float] = []
        for answer in answers:
            logits = self._detector.logits(answer)
            worst = float(np.clip(logits.max(), -50, 50))  # minus infinity: the answer has no letter
            found.append(float(1 / (1 + np.exp(worst))))
        return found
