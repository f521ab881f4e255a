"""`StreamRules`: the detectors, terms and decisions that all streams of one policy share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from copy import copy
from typing import Final

from deepwell.safety.findings import Decision, Detector, Finding
from deepwell.safety.normalise import Normalised, normalised
from deepwell.safety.streaming.beginnings import Lexicon
from deepwell.safety.streaming.values import ValueForm, ValueForms

__all__ = ["HOLD_BACK", "Decide", "StreamRules"]

HOLD_BACK: Final = 64
"""Most characters that are held back."""

Decide = Callable[[Sequence[Finding], Sequence[str]], Decision]
"""Makes a decision of findings and of the names of detectors that did not answer."""

# Characters between two scans if nothing asks for one; the second for rules of one request.
_EVERY: Final = 160
_OFTEN: Final = 48


def _bracketed(finding: Finding) -> str:
    return f"[{finding.category}]"


class StreamRules:
    """The parts that all streams of one policy share."""

    __slots__ = (
        "decide",
        "detectors",
        "endings",
        "every",
        "hold_back",
        "lexicon",
        "normalise",
        "replacement",
        "sampled",
        "values",
    )

    def __init__(
        self,
        detectors: Sequence[Detector],
        decide: Decide,
        *,
        terms: Iterable[str] = (),
        values: Iterable[ValueForm] = (),
        sampled: Sequence[Detector] = (),
        endings: Sequence[Detector] = (),
        replacement: Callable[[Finding], str] = _bracketed,
        normalise: Callable[[str], Normalised] = normalised,
    ) -> None:
        """Makes the rules.

        Args:
            detectors: take part in every scan.
            decide: makes decisions; the one about no findings and no failure is never asked for.
            terms: the terms, as `detectors` find them, that block or redact, none of which leaves whole; and those within
                which these are allowed.
            values: forms of the numbers, addresses and keys that block or redact. What may be the beginning of one is held.
            sampled: slow detectors; take part in a scan about every 400 characters and in the last.
            endings: find the value in which a text breaks off; take part where a stream ends, and where more of a value has
                come than is held back. What they find is redacted even if the whole value blocks.
            replacement: returns what stands in the stream for a finding that is redacted.
        """
        self.detectors = tuple(detectors)
        self.decide = decide
        self.sampled = tuple(sampled)
        self.endings = tuple(endings)
        self.replacement = replacement
        self.normalise = normalise
        self.hold_back = HOLD_BACK
        self.every = _EVERY
        self.values = ValueForms(values)
        self.lexicon = Lexicon(terms, lambda text: normalise(text).views[0].text)

    def also(self, detectors: Sequence[Detector], endings: Sequence[Detector] = ()) -> StreamRules:
        """Returns the same rules with detectors of one request, which take part in every scan. Nothing is built anew.

        Scans then come more often: a system prompt is told by 60 letters in a row, and what comes behind them should not leave.
        """
        rules = copy(self)
        rules.every = _OFTEN
        rules.detectors = (*self.detectors, *detectors)
        rules.endings = (*self.endings, *endings)
        return rules

    def replacing(self, replacement: Callable[[Finding], str]) -> StreamRules:
        """Returns the same rules with other words in place of findings that are redacted."""
        rules = copy(self)
        rules.replacement = replacement
        return rules
