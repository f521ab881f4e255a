"""One scan: the findings of detectors in a part of a stream, at their positions in the stream."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from deepwell.safety.findings import Detector, Finding
from deepwell.safety.normalise import Normalised

__all__ = ["BOUNDARY", "asked", "from_word"]

BOUNDARY: Final = 24
"""Characters in front of what is of interest that a scan reads as well."""


def from_word(window: str) -> int:
    """Returns where the first whole word of a window begins: one that is cut in two must not look like two."""
    return next((at for at in range(min(BOUNDARY, len(window))) if window[at].isspace()), 0)


def asked(detectors: Sequence[Detector], text: Normalised, first: int) -> tuple[list[Finding], list[str]]:
    """Returns what detectors find, and the names of those that failed.

    Args:
        first: position in the stream of the first character of `text`.
    """
    found: list[Finding] = []
    failed: list[str] = []
    for detector in detectors:
        try:
            found += [_moved(_trimmed(finding, text.text), first) for finding in detector.scan(text)]
        except Exception:
            failed.append(detector.name)
    return found, failed


def _trimmed(finding: Finding, text: str) -> Finding:
    """Returns a finding of a reading that joins characters without the punctuation behind it, which it joined over."""
    end = finding.end
    while finding.view == "joined" and end > finding.start + 1 and not text[end - 1].isalnum():
        end -= 1
    return finding if end == finding.end else replace(finding, end=end)


def _moved(finding: Finding, by: int) -> Finding:
    return Finding(
        finding.rule, finding.category, finding.start + by, finding.end + by, finding.score, finding.view
    )
