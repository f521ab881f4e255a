"""`Guard`: detectors and a policy, as one answer to a text."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from deepwell.safety.findings import Action, Decision, Detector, Finding, Layer
from deepwell.safety.normalise import normalised
from deepwell.safety.policy import Policy, strictest

__all__ = ["Guard"]

_log = logging.getLogger(__name__)


class Guard:
    """Reads texts and decides about them. It may be called from any thread.

    Args:
        detectors: for each layer.
        missing: detectors that cannot work, by layer, such as a term list that is not there. Every text of the layer counts as
            one on which they failed.
    """

    def __init__(
        self,
        detectors: Mapping[Layer, Sequence[Detector]],
        policy: Policy,
        missing: Mapping[Layer, Sequence[str]] | None = None,
    ) -> None:
        self.detectors = detectors
        self.policy = policy
        self.hash = policy.hash
        self.missing = missing or {}

    def with_policy(self, policy: Policy) -> Guard:
        """Returns the same detectors under another policy."""
        return Guard(self.detectors, policy, self.missing)

    def check(self, text: str, layer: Layer, tenant: str = "") -> Decision:
        """Returns the decision about a text. It never raises: a detector that does is named in `failed`."""
        findings: list[Finding] = []
        failed = list(self.missing.get(layer, ()))
        try:
            views = normalised(text)
        except Exception:
            _log.exception("normalisation failed")
            return self.failure(layer, tenant, "normalise")
        for detector in self.detectors.get(layer, ()):
            try:
                findings += detector.scan(views)
            except Exception:
                _log.exception("detector %s failed", detector.name)
                failed.append(detector.name)
        return self.decide(findings, layer, tenant, failed)

    def decide(
        self, findings: Sequence[Finding], layer: Layer, tenant: str = "", failed: Sequence[str] = ()
    ) -> Decision:
        """Returns the policy's decision about findings."""
        judged: list[tuple[Finding, Action]] = []
        for finding in sorted(findings, key=lambda one: (one.start, one.end, one.rule)):
            action = self.policy.action(finding, layer, tenant)
            if action != "allow":
                judged.append((finding, action))
        actions: list[Action] = [action for _, action in judged]
        if failed:
            actions.append(self.policy.on_failure(layer, tenant))
        return Decision(strictest(*actions), layer, tuple(judged), self.hash, tuple(failed))

    def failure(self, layer: Layer, tenant: str, name: str) -> Decision:
        """Returns the decision about a text that could not be read, for example because time ran out."""
        return self.decide((), layer, tenant, (name,))
