"""`held_values`: the forms of personal data and of secrets that a policy lets no stream say."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from deepwell.safety.findings import Finding
from deepwell.safety.personal import BEHIND, KINDS
from deepwell.safety.secrets import FORMS
from deepwell.safety.streaming.values import ValueForm

__all__ = ["held_values"]


def held_values(acts: Callable[[Finding], bool]) -> Iterator[ValueForm]:
    """Yields the forms of values that are redacted or blocked.

    Args:
        acts: tells of a finding whether it is.
    """
    for kind in KINDS:
        rule = f"personal.{kind.name}"
        surely = not kind.needs_word and acts(Finding(rule, "personal", 0, 1, kind.score))
        if surely or acts(Finding(rule, "personal", 0, 1)):
            # A word behind the value may decide about it.
            yield ValueForm(kind.pattern, kind.lead, True, 0 if surely else BEHIND)
    for form in FORMS:
        if acts(Finding(f"secrets.{form.name}", "secret", 0, 1, form.score)):
            yield ValueForm(form.pattern, form.lead)
