"""Counts what the classifier finds among labelled texts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deepwell.errors import InvalidFile
from deepwell.safety.classifier.detector import LinearDetector
from deepwell.safety.classifier.training import BENIGN
from deepwell.safety.classifier.weights import CATEGORIES, read_weights
from deepwell.safety.normalise import normalised

__all__ = ["evaluated", "read_labelled"]


def read_labelled(path: Path) -> list[tuple[str, str]]:
    """Returns texts and categories of a file of JSON lines.

    Raises:
        InvalidFile: a line is not an object with a `text` and a known `category`.
    """
    found: list[tuple[str, str]] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            row: Any = json.loads(line)
            text, category = row["text"], row["category"]
        except (ValueError, KeyError, TypeError):
            text, category = None, None
        if not isinstance(text, str) or category not in (*CATEGORIES, BENIGN):
            raise InvalidFile(
                f"line {number} of {path} is no object with a `text` and a `category`",
                fix=f"write one of {', '.join((*CATEGORIES, BENIGN))} as its category",
            )
        found.append((text, category))
    return found


def evaluated(texts: Sequence[tuple[str, str]], weights: Path) -> dict[str, dict[str, float]]:
    """Returns counts by label: texts, those in which any attack is found, and their share in percent.

    Raises:
        InvalidModelFile: the weights cannot be used.
    """
    detector = LinearDetector(read_weights(weights))
    figures: dict[str, dict[str, float]] = {}
    for text, category in texts:
        figure = figures.setdefault(category, {"texts": 0, "found": 0})
        figure["texts"] += 1
        figure["found"] += bool(detector.scan(normalised(text)))
    for figure in figures.values():
        figure["percent"] = round(100 * figure["found"] / figure["texts"], 1)
    return figures
