"""The names of all rules that detectors report, by which a policy's spelling is checked."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import cache

from deepwell.messages import nearest

__all__ = ["is_rule", "nearest_rule"]

_OPEN = frozenset(("terms", "external"))
"""Detectors whose rules end in a name of the operator's own: the category of a list, the label of a service."""


@cache
def _kinds() -> Mapping[str, Collection[str]]:
    """Returns what may stand behind the name of each detector."""
    from deepwell.safety.classifier.weights import CATEGORIES as CLASSES
    from deepwell.safety.moderation.scorer import CATEGORIES
    from deepwell.safety.patterns import shipped_patterns
    from deepwell.safety.personal import KINDS
    from deepwell.safety.secrets import FORMS

    personal = dict.fromkeys(kind.name for kind in KINDS)
    return {
        "terms": ("block", "flag"),
        "patterns": dict.fromkeys(rule.name for rule in shipped_patterns()),
        "personal": (*personal, "foreign", *(f"foreign.{kind}" for kind in personal)),
        "secrets": dict.fromkeys(form.name for form in FORMS),
        "classifier": CLASSES,
        "leak": ("system_prompt",),
        "moderation": CATEGORIES,
        "grounding": ("unsupported",),
        "external": (),
    }


def is_rule(name: str) -> bool:
    """Returns whether a name is that of a detector, of one of its rules, or the beginning of one."""
    detector, dot, rest = name.partition(".")
    kinds = _kinds().get(detector)
    if kinds is None or not dot:
        return kinds is not None
    if detector in _OPEN:
        return bool(rest) and (not kinds or rest.partition(".")[0] in kinds)
    return rest in kinds


def nearest_rule(name: str) -> str:
    """Returns the rule of a detector that a misspelt name is nearest to, or an empty string if none is near."""
    detector, _, rest = name.partition(".")
    kinds = _kinds().get(detector)
    if kinds is None:
        right = nearest(detector, _kinds())
        return f"{right}.{rest}" if right and rest and is_rule(f"{right}.{rest}") else ""
    if detector in _OPEN:
        rest, _, tail = rest.partition(".")
        right = nearest(rest, kinds)
        return f"{detector}.{right}.{tail}".rstrip(".") if right else ""
    right = nearest(rest, kinds)
    return f"{detector}.{right}" if right else ""
