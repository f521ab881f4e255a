"""The provenance card of trained weights: where every text came from, under which licence, and how it was trained."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Final

from deepwell.safety.classifier.weights import CATEGORIES
from deepwell_bench.workloads.safety.classifier.fitted import MAX_FALSE_POSITIVES, OPTIONS, Fitted
from deepwell_bench.workloads.safety.translated import MODEL
from deepwell_bench.workloads.safety.wheels import LICENCES, WHEELS

__all__ = ["written_card"]

_DEBIAN: Final = {
    "libreoffice-help-en-us, libreoffice-help-zh-cn": "MPL-2.0",
    "manpages, manpages-zh": "GPL-2+, BSD and others, as in each page; see the packages' copyright files",
}


def written_card(trained: Fitted, weights: Path) -> str:
    """Returns the card as TOML."""
    lines = [
        "# Origin of weights.safetensors. No text of the sources is in it: it holds sums over hashed n-grams.",
        'command = "deepwell guard train FOLDER"',
        f'date = "{datetime.now(UTC).date().isoformat()}"',
        f'weights_sha256 = "{sha256(weights.read_bytes()).hexdigest()}"',
        f'training_ids_sha256 = "{trained.train_sha256}"',
        f"max_false_positives = {MAX_FALSE_POSITIVES}",
        f"left_out_as_near_a_test_text = {trained.texts.dropped}",
        "",
        "[options]",
        *(f"{name} = {_toml(value)}" for name, value in asdict(OPTIONS).items()),
        "",
        "[thresholds]",
        *(
            f"{category} = {float(value):.4f}"
            for category, value in zip(CATEGORIES, trained.weights.thresholds, strict=True)
        ),
    ]
    for package, licence in LICENCES.items():
        version, digest = WHEELS[package]
        lines += _source(f"pypi:{package}=={version}", licence, digest)
    for packages, licence in _DEBIAN.items():
        lines += _source(f"debian:{packages}", licence, "")
    lines += _source(f"model:{MODEL}, which translated attacks for training into Chinese", "Apache-2.0", "")
    lines += _source("deepwell:bench/workloads/safety/written", "as this repository", "")
    for side, texts in (("train", trained.texts.train), ("thresholds", trained.texts.development)):
        lines += ["", f"[counts.{side}]"]
        counted = Counter((one.category, one.family, one.language) for one in texts)
        lines += [
            f'"{category} {family} {language}" = {number}'
            for (category, family, language), number in sorted(counted.items())
        ]
    return "\n".join(lines) + "\n"


def _source(name: str, licence: str, digest: str) -> list[str]:
    lines = ["", "[[sources]]", f'name = "{name}"', f'licence = "{licence}"']
    return [*lines, f'sha256 = "{digest}"'] if digest else lines


def _toml(value: object) -> str:
    return str(list(value)) if isinstance(value, tuple) else str(value)
