"""The detectors of the first layer beside the classifier, and which of their findings name an attack."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from deepwell.safety.findings import Detector, Finding
from deepwell.safety.normalise import normalised
from deepwell.safety.patterns import Patterns
from deepwell.safety.terms.detector import Terms
from deepwell.safety.terms.lists import starter_list

__all__ = ["found_by_others", "is_attack", "other_detectors"]

_ATTACKS: Final = ("injection", "jailbreak", "harmful", "prompt_leak", "exfiltration")
"""Categories that name an attack. Code, personal data and secrets are other matters, and count neither way."""


def other_detectors() -> list[Detector]:
    """Returns the detectors of requests that stand beside the classifier."""
    return [Patterns(), Terms([starter_list()])]


def is_attack(finding: Finding) -> bool:
    """Tells whether a finding names an attack, or a term that blocks."""
    return finding.category in _ATTACKS or finding.rule.startswith("terms.block.")


def found_by_others(texts: Iterable[str]) -> list[bool]:
    """Tells of each text whether a detector other than the classifier finds an attack in it."""
    detectors = other_detectors()
    found: list[bool] = []
    for text in texts:
        read = normalised(text)
        found.append(any(is_attack(one) for detector in detectors for one in detector.scan(read)))
    return found
