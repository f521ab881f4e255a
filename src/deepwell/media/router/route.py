"""Decides what a request asks for, and says why: sure wordings first, then the classifier."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from deepwell.media.router.classifier import INTENTS, SETS, Intent, RouterFile
from deepwell.media.router.features import Features, features_of
from deepwell.media.router.patterns import Found
from deepwell.messages import Note

__all__ = ["ENCODER", "Route", "Router"]

ENCODER: Final = "e5-small-q4"
"""The model of the store whose vectors the classifier reads."""

By = Literal["rules", "classifier", "classifier without encoder"]

_AGREED: Final = 0.9
"""The share that the classifier without encoder has to give to what sure wordings ask for."""

_MOST_WORDS: Final = 60
_MOST_REASONS: Final = 2


@dataclass(frozen=True, slots=True)
class Route:
    """The intents of a request, with their scores and reasons.

    Attributes:
        intents: one to three intents, in the order of `INTENTS`.
        scores: how likely the request asks for each intent, alone or among others; rules are sure.
        reasons: sentences that explain the choice, in the language that they are said in.
        by: what decided.
    """

    intents: tuple[Intent, ...]
    scores: Mapping[Intent, float]
    reasons: Sequence[Note]
    by: By


class Router:
    """Decides what requests ask for.

    Args:
        weights: those of the package, or others.
    """

    def __init__(self, weights: RouterFile | None = None) -> None:
        self._weights = RouterFile.read() if weights is None else weights

    def decided(self, text: str, attached: Collection[str] = ()) -> Route | None:
        """Returns the route that sure wordings decide, for which no vector is needed; None where the classifier has to."""
        return self._by_rules(features_of(text, attached))

    def route(
        self, text: str, attached: Collection[str] = (), vector: NDArray[np.float32] | None = None
    ) -> Route:
        """Returns what a request asks for.

        Args:
            text: the request.
            attached: kinds of what is attached: `audio`, `image`.
            vector: e5-small's vector of `encoded_text(text)`; None where there is no encoder.
        """
        features = features_of(text, attached)
        sure = self._by_rules(features)
        if sure is not None:
            return sure
        weights = self._weights.alone if vector is None else self._weights.full
        likely = weights.probabilities(features, vector)
        best = int(likely.argmax())
        scores: dict[Intent, float] = {
            intent: float(sum(share for one, share in zip(SETS, likely, strict=True) if intent in one))
            for intent in INTENTS
        }
        reasons = _reasons(features.found, SETS[best])
        reasons.append(
            Note(
                "router_learnt",
                {"percent": round(100 * float(likely[best])), "intents": ", ".join(SETS[best])},
            )
        )
        if vector is None:
            reasons.append(Note("router_no_encoder", {"name": ENCODER}))
        by: By = "classifier without encoder" if vector is None else "classifier"
        return Route(SETS[best], scores, reasons, by)

    def _by_rules(self, features: Features) -> Route | None:
        """Returns the route of sure wordings; None where there are none, or the classifier without encoder doubts them."""
        found = features.found
        intents = {one.wording.intent for one in found}
        if len(intents) != 1 or any(one.wording.against for one in found):
            return None
        intent: Intent | None = next((one for one in INTENTS if one in intents), None)
        if intent is None or not any(one.wording.sure for one in found):
            return None
        chosen: tuple[Intent, ...] = (intent,)
        if self._weights.alone.probabilities(features, None)[SETS.index(chosen)] < _AGREED:
            return None
        scores: dict[Intent, float] = {one: float(one == intent) for one in INTENTS}
        return Route(chosen, scores, _reasons(found, chosen), "rules")


def _reasons(found: Sequence[Found], intents: Sequence[Intent]) -> list[Note]:
    """Returns what speaks for the intents that were chosen, and against those that were not, the surest first."""
    notes: list[Note] = []
    for intent in INTENTS:
        mine = [one for one in found if one.wording.intent == intent and one.words.strip("‹›qtw ")]
        chosen = intent in intents
        fit = sorted(
            (one for one in mine if one.wording.against != chosen), key=lambda one: not one.wording.sure
        )
        key = f"router_{intent}" if chosen else "router_against"
        words = list(dict.fromkeys(_shown(one.words) for one in fit))[:_MOST_REASONS]
        notes += [Note(key, {"words": one, "intent": intent}) for one in words]
    return notes


def _shown(words: str) -> str:
    """Returns words of a request as a reason shows them."""
    shown = " ".join(re.sub("‹[qtw]?›?", "…", words).split())
    return shown if len(shown) <= _MOST_WORDS else f"{shown[: _MOST_WORDS - 1]}…"
