"""`Terms`: finds the terms of lists in every reading of a text, by an index of their beginnings."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from deepwell.safety.findings import Finding
from deepwell.safety.matching import merged
from deepwell.safety.normalise import Normalised
from deepwell.safety.readings.view import View
from deepwell.safety.terms.index import TermIndex
from deepwell.safety.terms.lists import STARTER, Term, TermList, read_list

__all__ = ["Terms"]

_WORD = frozenset("abcdefghijklmnopqrstuvwxyz0123456789")


class Terms:
    """Finds terms. The rule of a finding is `terms.`, the tier and the category, as in `terms.block.politics`.

    A term that begins or ends with a Latin letter or digit is found as a whole word; Han characters have no such boundary. Of
    terms inside of each other the longest is reported, and none that lies within a term of the tier `allow`.

    Args:
        lists: of a term in several lists, the first counts.
    """

    name = "terms"

    def __init__(self, lists: Iterable[TermList]) -> None:
        self.lists = tuple(lists)
        terms: dict[str, Term] = {}
        for one in self.lists:
            for term in one.terms:
                if term.tier != "ignore" and len(term.text) > 1:
                    terms.setdefault(term.text, term)
        self._terms = list(terms.values())
        self._index = TermIndex(list(terms))

    @classmethod
    def load(cls, folder: Path, names: Sequence[str] = (STARTER,)) -> Terms:
        """Returns the detector of lists by name, those that were pulled below `folder`.

        Raises:
            TermListNotFound: a list is not on this machine. The policy declares what a guard without it does.
            InvalidFile: a list is damaged.
        """
        return cls([read_list(folder, name) for name in names])

    def texts(self, *tiers: str) -> list[str]:
        """Returns the terms of these tiers as they read folded, such as those that no stream may let pass."""
        return [term.text for term in self._terms if term.tier in tiers]

    def scan(self, text: Normalised) -> list[Finding]:
        """Returns the terms in all readings."""
        found: list[Finding] = []
        if self._terms:
            for view in text.views:
                found += self._found(view)
        return merged(found)

    def occurring(self, view: View) -> set[str]:
        """Returns every term in a reading, also those inside of others."""
        return {term.text for _, _, term in self._hits(view)}

    def _found(self, view: View) -> list[Finding]:
        hits = self._hits(view)
        if not hits:
            return []
        return [
            Finding(
                f"terms.{term.tier}.{term.category}", term.category, *view.span(start, end), view=view.name
            )
            for start, end, term in _longest(hits)
        ]

    def _hits(self, view: View) -> list[tuple[int, int, Term]]:
        text = view.text
        count = len(text)
        hits: list[tuple[int, int, Term]] = []
        for start, end, number in self._index.occurrences(text):
            term = self._terms[number]
            if end < count and term.text[-1] in _WORD and text[end] in _WORD:
                continue
            hits.append((start, end, term))
        return hits


def _longest(hits: list[tuple[int, int, Term]]) -> list[tuple[int, int, Term]]:
    """Returns hits that lie in no longer one that is as strict, nor in one that is allowed."""
    hits.sort(key=lambda hit: (hit[0], -hit[1]))
    kept: list[tuple[int, int, Term]] = []
    reach = {"allow": 0, "block": 0, "flag": 0}
    for start, end, term in hits:
        over = max(reach["allow"], reach["block"], reach["flag"] if term.tier == "flag" else 0)
        if end <= over:
            continue
        reach[term.tier] = max(reach[term.tier], end)
        if term.tier != "allow":
            kept.append((start, end, term))
    return kept
