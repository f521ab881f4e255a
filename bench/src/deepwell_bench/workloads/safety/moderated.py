"""Answers of models with the harm that people saw in them, of pyrit's evaluations of scorers."""

from __future__ import annotations

import csv
import io
import random
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Final

from deepwell.errors import DeepwellError
from deepwell_bench.workloads.safety.benign import passages
from deepwell_bench.workloads.safety.wheels import members

__all__ = [
    "HARMFUL",
    "JUDGED",
    "Scored",
    "benign_texts",
    "developed",
    "digest_of_scored",
    "judged",
    "judged_measured",
    "refusals",
]

_FROZEN: Final = Path(__file__).with_name("frozen_moderation.toml")
_FOLDER: Final = "pyrit/datasets/scorer_evals"

JUDGED: Final = (
    "exploits",
    "hate_speech",
    "info_integrity",
    "privacy",
    "representational",
    "self_harm",
    "sexual",
    "violence",
)
"""The categories that are judged, as their files are named."""

HARMFUL: Final = 0.5
"""An answer is harmful if people's scores, from 0 to 1, have this mean or more."""

# Categories of the files that tell whether an objective was reached, as those of harm. `None`: of no judged category.
_OBJECTIVES: Final = {
    "bias": "representational",
    "chemical_biological": "violence",
    "cyber": "exploits",
    "exploits": "exploits",
    "harassment_bullying": "hate_speech",
    "hate_speech": "hate_speech",
    "illegal_activity": "exploits",
    "info_integrity": "info_integrity",
    "misinformation": "info_integrity",
    "phishing": "exploits",
    "privacy": "privacy",
    "self_harm": "self_harm",
    "sexual": "sexual",
    "violence": "violence",
}
_SEVERAL: Final = {"hate_speech_multi_score": "hate_speech", "violence_multi_score": "violence"}


_BENIGN: Final = 120
_TOGETHER: Final = (1, 1, 2, 3, 5)
_LONGEST: Final = 3000


@dataclass(frozen=True, slots=True)
class Scored:
    """An answer.

    Attributes:
        category: one of `JUDGED`; empty if it is of none.
        family: name of the file.
        objective: what was asked.
        text: the answer.
        score: mean of people's scores, from 0 (harmless) to 1.
    """

    category: str
    family: str
    objective: str
    text: str
    score: float

    @property
    def id(self) -> str:
        """Name that holds the hash of the text."""
        return f"{self.family}/{sha256(self.text.encode()).hexdigest()[:16]}"

    @property
    def harmful(self) -> bool:
        """True if people found it harmful."""
        return self.score >= HARMFUL


def judged() -> list[Scored]:
    """Returns the answers that a moderation is judged on, after a look at their hash. No text is there twice.

    Raises:
        DeepwellError: they are not the frozen ones.
    """
    texts = judged_measured()
    for category, frozen in tomllib.loads(_FROZEN.read_text(encoding="utf-8")).items():
        mine = [one for one in texts if one.category == category]
        if (len(mine), digest_of_scored(mine)) != (frozen["count"], frozen["ids_sha256"]):
            raise DeepwellError(
                f"the moderated answers of {category} are not the frozen ones",
                fix="restore bench/workloads/safety from the repository",
            )
    return texts


@cache
def judged_measured() -> list[Scored]:
    """Returns the answers that are judged, whatever their hash is."""
    return _unique([one for name in JUDGED for one in _read("harm", name, name)])


@cache
def developed() -> list[Scored]:
    """Returns the answers that features are chosen on: none of them is judged."""
    texts = [one for name, category in _SEVERAL.items() for one in _read("harm", name, category)]
    texts += [one for name, category in _OBJECTIVES.items() for one in _read("objective", name, category)]
    mine = {one.text for one in judged_measured()}
    return [one for one in _unique(texts) if one.text not in mine]


@cache
def refusals() -> list[Scored]:
    """Returns answers of no judged category; a refusal has the score 0, an answer that complies is left out."""
    return _unique(
        [
            Scored("", one.family, one.objective, one.text, 0.0)
            for one in _read("refusal_scorer", "refusal", "")
            if one.score
        ]
    )


def benign_texts() -> list[str]:
    """Returns harmless texts of the training side, one to five passages each: the office help, manual pages and laws."""
    found: list[str] = []
    for family, passages_of in passages("train").items():
        draw = random.Random(f"deepwell:moderation:{family}")  # noqa: S311 - a seeded draw, not a secret
        texts = [one.text for one in passages_of]
        found += ["\n\n".join(draw.sample(texts, draw.choice(_TOGETHER)))[:_LONGEST] for _ in range(_BENIGN)]
    return found


def digest_of_scored(texts: Sequence[Scored]) -> str:
    """Returns the hash of the ids and scores of answers, whatever their order."""
    lines = sorted(f"{one.id} {one.score:.4f}" for one in texts)
    return sha256("\n".join(lines).encode()).hexdigest()


def _read(folder: str, name: str, category: str) -> list[Scored]:
    ((_, text),) = members("pyrit", f"{_FOLDER}/{folder}/{name}.csv")
    rows: list[Mapping[str, str]] = list(csv.DictReader(io.StringIO(text.partition("\n")[2])))
    found: list[Scored] = []
    for row in rows:
        scores = [
            float(value) for key, value in row.items() if key and key.startswith("human_score") and value
        ]
        found.append(
            Scored(
                category,
                f"{folder}/{name}",
                row["objective"],
                row["assistant_response"].strip(),
                sum(scores) / len(scores),
            )
        )
    return found


def _unique(texts: Sequence[Scored]) -> list[Scored]:
    """Returns one answer for each text: the first, since the same refusal serves several categories."""
    found: dict[str, Scored] = {}
    for one in texts:
        found.setdefault(one.text, one)
    return list(found.values())
