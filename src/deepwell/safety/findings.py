"""`Finding` and `Decision`: what detectors say of a text, and what the policy makes of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, Protocol

from deepwell.safety.normalise import Normalised

__all__ = ["ACTIONS", "Action", "Decision", "Detector", "Finding", "Layer"]

Action = Literal["allow", "flag", "redact", "block"]
Layer = Literal["input", "context", "output"]

ACTIONS: Final[tuple[Action, ...]] = ("allow", "flag", "redact", "block")
"""The actions, from the laxest to the strictest."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One span of a text that a detector recognised.

    Attributes:
        rule: dotted name of the rule, its detector first: `terms.politics`, `personal.cn_id`, `classifier.injection`.
        category: subject that a policy decides about: `injection`, `personal`, `secret`, `violence`, ...
        start, end: characters of the original text; a finding in an unwrapped view covers what was unwrapped.
        score: certainty from 0 to 1.
        view: the reading of the text it was found in: `plain`, `folded`, `base64`, ...
    """

    rule: str
    category: str
    start: int
    end: int
    score: float = 1.0
    view: str = "plain"


@dataclass(frozen=True, slots=True)
class Decision:
    """The policy's decision about one text.

    Attributes:
        action: the strictest action of all findings.
        layer: the place of the text: what a user says, what a search or a tool brings, or what the model answers.
        findings: each with the action that the policy takes on it, in the order of the text.
        policy: hash of the policy that decided.
        failed: detectors that did not answer; `action` then includes what the policy declares for that.
    """

    action: Action
    layer: Layer
    findings: Sequence[tuple[Finding, Action]] = ()
    policy: str = ""
    failed: Sequence[str] = field(default_factory=tuple)

    @property
    def rule(self) -> str:
        """The rule that blocks the text, or the detector without which it may not pass; empty: it is not blocked."""
        if self.action != "block":
            return ""
        rules = [finding.rule for finding, action in self.findings if action == "block"]
        return next(iter((*rules, *self.failed)), "")


class Detector(Protocol):
    """Anything that finds spans in a text. Detectors hold no state of a request, and may be called from any thread."""

    @property
    def name(self) -> str:
        """Name of the detector, by which a policy and the metrics call it: `terms`, `personal`, `classifier`."""
        ...

    def scan(self, text: Normalised) -> list[Finding]:
        """Returns what was found, in the order of the text. Raises nothing on any text."""
        ...
