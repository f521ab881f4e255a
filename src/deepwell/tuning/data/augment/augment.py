"""`augment`: adds rewritten texts to records, and accounts for every record and every rewriting."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from deepwell.errors import InvalidRequest
from deepwell.tuning.data.augment.filters import (
    REASONS,
    Filters,
    LabelCheck,
    Reason,
    distinctness,
    normalised,
)
from deepwell.tuning.data.augment.rewriters import Rewriter
from deepwell.tuning.data.records import BadRecord, Record
from deepwell.tuning.data.report import DataReport, Example

__all__ = ["LEAST_LABELS", "Augmented", "augment"]

_BATCH: Final = 64
LEAST_LABELS: Final = 20
"""Labels without which a classifier says nothing of a rewriting."""


@dataclass(slots=True)
class Augmented:
    """The records with what was added, and the account of it.

    Attributes:
        records: each original, followed by its rewritings, in the order of the file.
        report: of the records: `warned` counts rewritings that were not taken, by reason.
        tried: number of rewritings that were made.
        accepted: those that were added.
        refused: number of the others by reason.
        pairs: source and rewriting of those that were added.
        label_agreement: share of the rewritings that reached the label check to which its classifier gives their label.
        source_agreement: the same share of the sources: what the classifier can know at best.
    """

    records: list[Record]
    report: DataReport
    tried: int
    accepted: int
    refused: Mapping[Reason, int]
    pairs: Sequence[tuple[str, str]]
    label_agreement: float | None = None
    source_agreement: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Returns the account as plain values."""
        return self.report.to_json() | {
            "tried": self.tried,
            "accepted": self.accepted,
            "refused": {reason: self.refused.get(reason, 0) for reason in REASONS},
            "accepted_share": self.accepted / self.tried if self.tried else 0.0,
            "distinctness": distinctness(self.pairs),
            "label_agreement": self.label_agreement,
            "source_agreement": self.source_agreement,
        }


@dataclass(slots=True)
class _Source:
    """A record whose text is rewritten: the place of the message, its text, and the rewritings that were taken."""

    record: Record
    place: int
    text: str
    row: int = -1  # among the labelled ones
    taken: list[str] = field(default_factory=list[str])


@dataclass(slots=True)
class _Tally:
    report: DataReport
    tried: int = 0
    refused: Counter[Reason] = field(default_factory=Counter[Reason])
    same: list[bool] = field(default_factory=list[bool])

    def refuse(self, source: _Source, reason: Reason, text: str) -> None:
        self.refused[reason] += 1
        self.report.warn(f"rewriting_{reason}", Example(source.record.line, source.record.source, text[:200]))


def augment(
    records: Iterable[Record | BadRecord],
    rewriter: Rewriter,
    *,
    per_record: int = 1,
    filters: Filters | None = None,
    tell: Callable[[int, int], None] = lambda _done, _total: None,
) -> Augmented:
    """Rewrites the text of each record, and adds the rewritings that pass the filters with the label of their record.

    Of a conversation, the last message of the user is rewritten; the answer stays. A record without one is kept as it is.
    New records name the line and the rewriter that they come from in `augmented_from` and `augmented_by`.

    Args:
        per_record: most rewritings of a record.
        tell: is called with the number of rewritings that were made, and that of all.

    Raises:
        InvalidRequest: there is no text to rewrite, or the rewriter cannot give several.
    """
    if per_record > 1 and not rewriter.varied:
        raise InvalidRequest(
            f"{rewriter.name} gives the same rewriting each time",
            fix="leave out --per-record, or use --pivot chinese or --paraphrase",
        )
    report = DataReport()
    kept, sources = _sources(report, records)
    if not sources:
        raise InvalidRequest.of("augment_nothing")
    tally = _Tally(report)
    check = _check(sources)
    seen = {normalised(one.text) for one in sources}
    bounds = filters or Filters()
    total = per_record * len(sources)
    for number in range(per_record):
        for first in range(0, len(sources), _BATCH):
            part = sources[first : first + _BATCH]
            texts = rewriter.rewrite([one.text for one in part], number=number)
            _take(part, texts, bounds, check, seen, tally)
            tell(tally.tried, total)
    report.check()
    pairs = [(one.text, text) for one in sources for text in one.taken]
    same = tally.same
    return Augmented(
        records=_merged(kept, sources, rewriter.name),
        report=report,
        tried=tally.tried,
        accepted=len(pairs),
        refused=tally.refused,
        pairs=pairs,
        label_agreement=sum(same) / len(same) if same else None,
        source_agreement=None if check is None else check.accuracy,
    )


def _sources(report: DataReport, records: Iterable[Record | BadRecord]) -> tuple[list[Record], list[_Source]]:
    kept: list[Record] = []
    sources: list[_Source] = []
    for one in report.reading(records):
        if isinstance(one, BadRecord):
            detail = f"{one.field}: {one.problem}" if one.field else one.problem
            report.drop("unreadable", Example(one.line, one.source, detail))
            continue
        report.keep()
        kept.append(one)
        places = [at for at, message in enumerate(one.messages) if message.get("role") == "user"]
        text = one.messages[places[-1]].get("content") if places else None
        if isinstance(text, str) and text.strip():
            sources.append(_Source(one, places[-1], text))
        else:
            report.warn("no_user_text", Example(one.line, one.source))
    return kept, sources


def _check(sources: Sequence[_Source]) -> LabelCheck | None:
    """Returns the check of labels; None for fewer than `LEAST_LABELS` labels, or one class."""
    labelled = [one for one in sources if one.record.label is not None]
    for row, one in enumerate(labelled):
        one.row = row
    labels = [one.record.label or "" for one in labelled]
    if len(labels) < LEAST_LABELS or len(set(labels)) < 2:
        return None
    return LabelCheck([one.text for one in labelled], labels)


def _take(
    sources: Sequence[_Source],
    texts: Sequence[str],
    filters: Filters,
    check: LabelCheck | None,
    seen: set[str],
    tally: _Tally,
) -> None:
    """Adds those rewritings that pass the filters to their sources."""
    tally.tried += len(sources)
    passed: list[tuple[_Source, str]] = []
    for source, text in zip(sources, texts, strict=True):
        key = normalised(text)
        problem = filters.problem(source.text, text) or ("duplicate" if key in seen else None)
        if problem is not None:
            tally.refuse(source, problem, text)
        else:
            seen.add(key)
            passed.append((source, text))
    labelled = [(source, text) for source, text in passed if source.row >= 0]
    lost: set[int] = set()
    if check is not None and labelled:
        judged = check.judge([source.row for source, _ in labelled], [text for _, text in labelled])
        tally.same += [one for one in judged.same if one is not None]
        lost = {source.row for (source, _), gone in zip(labelled, judged.lost, strict=True) if gone}
    for source, text in passed:
        if source.row in lost and source.row >= 0:
            tally.refuse(source, "label", text)
        else:
            source.taken.append(text)


def _merged(kept: Sequence[Record], sources: Sequence[_Source], name: str) -> list[Record]:
    """Returns the records with the rewritings behind each."""
    by_record = {id(one.record): one for one in sources}
    merged: list[Record] = []
    for record in kept:
        merged.append(record)
        if (source := by_record.get(id(record))) is None:
            continue
        origin = {"augmented_from": record.line, "augmented_by": name}
        for text in source.taken:
            messages = list(record.messages)
            messages[source.place] = messages[source.place] | {"content": text}
            merged.append(replace(record, messages=tuple(messages), extra=record.extra | origin))
    return merged
