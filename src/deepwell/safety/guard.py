"""`Guard`: detectors and a policy, as one answer to a text."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import overload

from deepwell.errors import InvalidFile, TermListNotFound
from deepwell.messages import Language
from deepwell.safety.classifier.detector import LinearDetector, shipped_detector
from deepwell.safety.findings import Action, Decision, Detector, Finding, Layer
from deepwell.safety.foreign import Foreign, foreign
from deepwell.safety.leaks import ForeignPersonal, SystemPromptLeak
from deepwell.safety.moderation.scorer import ModerationDetector, shipped_moderator
from deepwell.safety.normalise import Normalised, View, normalised
from deepwell.safety.patterns import Patterns
from deepwell.safety.personal import Personal
from deepwell.safety.policy import LayerPolicy, Policy, strictest
from deepwell.safety.redaction import label
from deepwell.safety.seams import Seam, crosses
from deepwell.safety.secrets import Secrets
from deepwell.safety.streaming.forms import Heads, held_values
from deepwell.safety.streaming.released import at_most, together
from deepwell.safety.streaming.rules import StreamRules
from deepwell.safety.terms.detector import Terms
from deepwell.safety.terms.lists import TermList, read_list

__all__ = ["Guard"]

_log = logging.getLogger(__name__)

_FOREIGN = "personal.foreign"


class _Late(Exception):
    """Raised where the time for a text is over."""


class _Timed(Sequence[View]):
    """The readings of a text. None is given out any more when the time is over."""

    def __init__(self, views: Sequence[View], until: float) -> None:
        self._views = views
        self._until = until

    def __len__(self) -> int:
        return len(self._views)

    @overload
    def __getitem__(self, at: int) -> View: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[View]: ...
    def __getitem__(self, at: int | slice) -> View | Sequence[View]:
        if time.monotonic() > self._until:
            raise _Late
        return self._views[at]


class Guard:
    """Reads texts and decides about them. It may be called from any thread.

    Args:
        detectors: for each layer.
        missing: detectors that cannot work, by layer, such as a term list that is not there. Every text of the layer counts as
            one on which they failed.
        sampled: detectors of whole answers, too slow to read every piece of a stream.
    """

    def __init__(
        self,
        detectors: Mapping[Layer, Sequence[Detector]],
        policy: Policy,
        missing: Mapping[Layer, Sequence[str]] | None = None,
        sampled: Sequence[Detector] = (),
    ) -> None:
        self.sampled = sampled
        self.detectors = detectors
        self.policy = policy
        self.hash = policy.hash
        self.missing = missing or {}
        self._made: dict[str, StreamRules] = {}  # by tenant: their table of terms is large
        self._rules: dict[tuple[str, Language], StreamRules] = {}
        self._endings: dict[str, Heads] = {}

    @classmethod
    def of(cls, policy: Policy, terms: Path) -> Guard:
        """Returns the detectors that a policy asks for, under it.

        Args:
            terms: folder of the lists of terms that were fetched. A list that is not there, or is damaged, is in `missing`.
        """
        lists: list[TermList] = []
        missing: list[str] = []
        for name in policy.terms:
            try:
                lists.append(read_list(terms, name))
            except (TermListNotFound, InvalidFile) as error:
                _log.error("the guard lacks a list: %s", error)
                missing.append(f"terms:{name}")
        detectors: list[Detector] = [Terms(lists), Patterns(), Personal(), Secrets()]
        before = [*detectors, shipped_detector()]
        readers: dict[Layer, list[Detector]] = {"input": before, "context": before, "output": detectors}
        sampled = (ModerationDetector(shipped_moderator()),)
        return cls(readers, policy, dict.fromkeys(readers, missing), sampled)

    def stream_rules(self, tenant: str = "", language: Language = "en") -> StreamRules:
        """Returns how answers to a tenant are read while they are written. Labels of what is redacted are in `language`."""
        key = (tenant if tenant in self.policy.tenants else "", language)
        rules = self._rules.get(key)
        if rules is None:
            made = self._made.get(key[0])
            if made is None:
                made = self._made[key[0]] = StreamRules(
                    self.detectors.get("output", ()),
                    lambda findings, failed: self.decide(findings, "output", key[0], failed),
                    terms=self._kept_back(key[0]),
                    values=held_values(lambda finding: self._holds(finding, key[0])),
                    sampled=self._asked(self.sampled, "output", key[0]),
                    endings=[self._heads(key[0])],
                )
            rules = self._rules[key] = made.replacing(lambda finding: label(finding.rule, language))
        return rules

    def leaks(self, system: str, known: Sequence[str], tenant: str = "") -> list[Detector]:
        """Returns detectors for the answer to one request: of its system prompt, and of personal data that nobody gave.

        Args:
            system: the system prompt. What of it ships with Deepwell is no secret.
            known: texts of the request and of passages that the model was shown.
        """
        layers = self.policy.layers("output", tenant)
        found: list[Detector] = []
        system = foreign(system).text.strip()
        if system and any(self._acts(one, "leak.system_prompt", "leak") for one in layers):
            found.append(SystemPromptLeak(system, known))
        if any(name.startswith(_FOREIGN) for one in layers for name in one.rules):
            readers = self.detectors.get("output", ())
            personal = next((one for one in readers if isinstance(one, Personal)), None)
            found.append(ForeignPersonal(personal or Personal(), known))
        return found

    def endings(self, known: Sequence[str], tenant: str = "") -> list[Detector]:
        """Returns detectors for the end of the answer to one request: of personal data that nobody gave and that breaks off.

        Args:
            known: texts of the request and of passages that the model was shown.
        """
        layers = self.policy.layers("output", tenant)
        if any(name.startswith(_FOREIGN) for one in layers for name in one.rules):
            return [ForeignPersonal(self._heads(tenant), known)]
        return []

    @staticmethod
    def _acts(layer: LayerPolicy, rule: str, category: str) -> bool:
        return layer.action(Finding(rule, category, 0, 1)) != "allow"

    def _kept_back(self, tenant: str) -> list[str]:
        """Returns the terms of which none may leave whole, and those within which these are allowed."""
        kept: list[str] = []
        for detector in self.detectors.get("output", ()):
            if isinstance(detector, Terms):
                for term in (term for one in detector.lists for term in one.terms):
                    if term.tier == "allow":
                        kept.append(term.text)
                    elif term.tier in ("block", "flag"):
                        finding = Finding(f"terms.{term.tier}.{term.category}", term.category, 0, 1)
                        if self.policy.action(finding, "output", tenant) in ("redact", "block"):
                            kept.append(term.text)
        return kept

    def _heads(self, tenant: str) -> Heads:
        """Returns the detector of values in which an answer to a tenant breaks off."""
        key = tenant if tenant in self.policy.tenants else ""
        heads = self._endings.get(key)
        if heads is None:
            heads = self._endings[key] = Heads(lambda finding: self._holds(finding, key))
        return heads

    def _holds(self, finding: Finding, tenant: str) -> bool:
        """Tells whether a value in an answer is redacted or blocked, be it only where nobody has named it."""
        judged = [finding]
        layers = self.policy.layers("output", tenant)
        if finding.category == "personal" and any(
            name.startswith(_FOREIGN) for one in layers for name in one.rules
        ):
            kind = finding.rule.removeprefix("personal.")
            judged.append(replace(finding, rule=f"{_FOREIGN}.{kind}"))
        return any(self.policy.action(one, "output", tenant) in ("redact", "block") for one in judged)

    def lacking(self, layer: Layer, tenant: str = "") -> Decision | None:
        """Returns the decision about every text of a layer for which a list is missing; None if none is."""
        missing = self.missing.get(layer)
        return self.decide((), layer, tenant, missing) if missing else None

    def check(self, text: str, layer: Layer, tenant: str = "", until: float | None = None) -> Decision:
        """Returns the decision about a text. It never raises: a detector that does is named in `failed`.

        Of what goes into a model, only the parts that do not ship with Deepwell are read.

        Args:
            until: time of `time.monotonic` at which the reading is given up, before the next reading of the next detector.
        """
        read = Foreign(text) if layer == "output" else foreign(text)
        if text.strip() and not read.text.strip():
            return self.decide((), layer, tenant)
        findings: list[Finding] = []
        failed = list(self.missing.get(layer, ()))
        readers = (*self.detectors.get(layer, ()), *(self.sampled if layer == "output" else ()))
        if not (readers := self._asked(readers, layer, tenant)):
            return self.decide((), layer, tenant, failed)
        try:
            if until is not None and time.monotonic() > until:
                return self.failure(layer, tenant, "timeout")
            whole = views = normalised(read.text)
            if until is not None:
                views = replace(whole, views=_Timed(whole.views, until))
        except Exception:
            _log.exception("normalisation failed")
            return self.failure(layer, tenant, "normalise")
        for detector in readers:
            try:
                findings += detector.scan(views)
            except _Late:
                failed.append("timeout")
                break
            except Exception:
                _log.exception("detector %s failed", detector.name)
                failed.append(detector.name)
        decision = self.decide(read.located(findings), layer, tenant, failed)
        return self._broken_off(decision, whole, tenant) if layer == "output" else decision

    def _broken_off(self, decision: Decision, views: Normalised, tenant: str) -> Decision:
        """Returns the decision about an answer, which redacts the value in which the answer breaks off as well."""
        redacted = [one for one, action in decision.findings if action in ("redact", "block")]
        heads = [
            head
            for head in self._heads(tenant).scan(views)
            if not any(one.start <= head.start and head.end <= one.end for one in redacted)
        ]
        if not heads:
            return decision
        return together((decision, at_most("redact", self.decide(heads, "output", tenant))))

    def _asked(self, detectors: Sequence[Detector], layer: Layer, tenant: str) -> list[Detector]:
        """Returns detectors without those of the package of whose findings no rule does anything."""
        acts = self.policy.acts(layer, tenant)

        def may_matter(one: Detector) -> bool:
            if isinstance(one, LinearDetector | ModerationDetector):
                return self.policy.acts(layer, tenant, {one.name, *one.categories})
            return acts or not isinstance(one, Terms | Patterns | Personal | Secrets)

        return [one for one in detectors if may_matter(one)]

    def over_seam(self, seam: Seam, layer: Layer, tenant: str = "") -> Decision | None:
        """Returns the decision about the terms that stand over a seam of two texts; None if there are none."""
        views = normalised(seam.text)
        findings = [
            one
            for detector in self.detectors.get(layer, ())
            if isinstance(detector, Terms)
            for one in detector.scan(views)
            if crosses(seam.text, one.start, one.end, seam.at)
        ]
        decision = self.decide(findings, layer, tenant)
        return decision if decision.findings else None

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
