"""`redacted`: a text with words in place of what was found in it."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from deepwell.messages import Language, catalogue
from deepwell.safety.findings import Finding

__all__ = ["label", "redacted"]

_OTHER = "redacted_other"


@lru_cache(512)
def label(rule: str, language: Language = "en") -> str:
    """Returns what stands in place of a finding of this rule, such as `[identity card]` or `[身份证]`."""
    detector, _, kind = rule.partition(".")
    key = "redacted_secret" if detector == "secrets" else f"redacted_{kind}"
    entries = catalogue()
    return entries.get(key, entries[_OTHER]).texts(language)[0]


def redacted(text: str, findings: Iterable[Finding], language: Language = "en") -> str:
    """Returns the text with a label in place of every finding. One that overlaps the one before it joins it."""
    pieces: list[str] = []
    done = 0
    for finding in sorted(findings, key=lambda one: (one.start, -one.end)):
        if finding.end <= done or finding.start >= finding.end:
            continue
        if finding.start >= done:
            pieces += (text[done : finding.start], label(finding.rule, language))
        done = finding.end
    return "".join((*pieces, text[done:]))
