"""One pass over training data that says what is wrong or doubtful with each record, and keeps the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Protocol

import numpy as np

from deepwell.errors import DeepwellError
from deepwell.tuning.data.decontamination import EvaluationSet, spoken_texts
from deepwell.tuning.data.language import language_of
from deepwell.tuning.data.quality import FILTERS, Finding, QualityLimits, quality_findings
from deepwell.tuning.data.records import BadRecord, Record
from deepwell.tuning.data.report import DataReport, Example, removed_line
from deepwell.tuning.data.turns import TURN_FINDINGS, turn_findings

__all__ = ["FINDINGS", "UNREADABLE", "Check", "CheckOptions", "Rendered", "Renderer"]

UNREADABLE = "unreadable"
"""Reason of records that cannot be read. They are dropped always."""

FINDINGS = (*TURN_FINDINGS, *FILTERS, "tokens", "template", "language", "contaminated")
"""Names of all that a check finds in records that can be read; the catalogue of messages says what each means."""

_PORTION = 256  # records that are compared with evaluation sets at a time


@dataclass(frozen=True, slots=True)
class Rendered:
    """A record as training sees it: its number of tokens, and their text with control tokens and marks of what is learnt."""

    tokens: int
    text: str


class Renderer(Protocol):
    """Renders records with the tokenizer and chat template of a model."""

    def __call__(self, record: Record) -> Rendered:
        """Returns the rendered record.

        Raises:
            DeepwellError: the chat template refuses the messages.
        """
        ...


@dataclass(frozen=True, slots=True)
class CheckOptions:
    """Settings of a check.

    Attributes:
        limits: limits of the quality filters.
        renderer: counts tokens; None: they are not counted.
        max_tokens: tokens that training takes of a record; the rest is cut. 0: any number.
        languages: codes of the wanted languages; empty: all. Texts of no known language are let pass.
        against: evaluation sets whose texts may not be in the data.
        drop: names of the findings whose records are dropped; records with others are kept, and counted as doubtful.
    """

    limits: QualityLimits = field(default_factory=QualityLimits)
    renderer: Renderer | None = None
    max_tokens: int = 0
    languages: Collection[str] = ()
    against: EvaluationSet | None = None
    drop: Collection[str] = ()


class Check:
    """Checks records one after the other.

    Attributes:
        report: what became of each record.
        languages: number of records by language.
        formats: number of records by the format they were read from.
        labels: number of records by label.
        sample: the first readable record as the model sees it; empty without a renderer.
        first: the first readable record.
    """

    def __init__(self, options: CheckOptions) -> None:
        self.report = DataReport()
        self.languages: Counter[str] = Counter()
        self.formats: Counter[str] = Counter()
        self.labels: Counter[str] = Counter()
        self.sample = ""
        self.first: Record | None = None
        self._options = options
        self._sizes: list[int] = []  # tokens of each record, or characters without a renderer

    def kept(
        self,
        records: Iterable[Record | BadRecord],
        advance: Callable[[int], None] = lambda _: None,
        tell: Callable[[str], None] = lambda _: None,
    ) -> Iterator[Record]:
        """Yields the records that are kept, in their order.

        Args:
            advance: is told how many further records are done.
            tell: is given one JSON object for each dropped record, with its reason.
        """
        source = iter(self.report.reading(records))
        while portion := list(islice(source, _PORTION)):
            readable = [one for one in portion if isinstance(one, Record)]
            overlaps = iter(self._overlaps(readable))
            for one in portion:
                if isinstance(one, BadRecord):
                    example = Example.of(one)
                    self.report.drop(UNREADABLE, example)
                    tell(removed_line(one, UNREADABLE, example.said("en")))
                elif (reason := self._reason(one, next(overlaps))) is not None:
                    tell(removed_line(one, reason.name, reason.detail))
                else:
                    yield one
            advance(len(portion))

    def sizes(self) -> dict[str, int]:
        """Returns the least, middle and greatest size of the readable records, and their sum: tokens, or characters."""
        sizes = np.array(self._sizes or [0])
        middle, most = np.percentile(sizes, (50, 95)).astype(int).tolist()
        return {
            "least": int(sizes.min()),
            "median": middle,
            "percentile_95": most,
            "greatest": int(sizes.max()),
            "sum": int(sizes.sum()),
        }

    def to_json(self) -> dict[str, Any]:
        """Returns the report and the counts as plain values."""
        return {
            **self.report.to_json(),
            "formats": dict(self.formats.most_common()),
            "languages": dict(self.languages.most_common()),
            "labels": dict(self.labels.most_common(100)),
            "tokens" if self._options.renderer else "characters": self.sizes(),
        }

    def _overlaps(self, records: Sequence[Record]) -> Sequence[Finding | None]:
        against = self._options.against
        if against is None:
            return [None] * len(records)
        return [
            None if found is None else Finding("contaminated", f"{found.source}:{found.line} {found.text}")
            for found in against.overlaps([spoken_texts(record) for record in records])
        ]

    def _reason(self, record: Record, overlap: Finding | None) -> Finding | None:
        """Counts a record, and returns the reason to drop it; None: it is kept."""
        options, report = self._options, self.report
        self.formats[record.format] += 1
        if record.label is not None:
            self.labels[record.label] += 1
        if self.first is None:
            self.first = record
        findings = [*turn_findings(record), *quality_findings(record, options.limits)]
        if overlap is not None:
            findings.append(overlap)
        findings += self._language(record)
        findings += self._tokens(record)
        reason = next((one for one in findings if one.name in options.drop), None)
        if reason is not None:
            report.drop(reason.name, Example(record.line, record.source, reason.detail))
            return reason
        for one in findings:
            tell = report.shorten if one.name == "tokens" else report.warn
            tell(one.name, Example(record.line, record.source, one.detail))
        report.keep()
        return None

    def _language(self, record: Record) -> Iterator[Finding]:
        code = language_of("\n".join(spoken_texts(record)))
        self.languages[code] += 1
        if self._options.languages and code != "und" and code not in self._options.languages:
            yield Finding("language", code)

    def _tokens(self, record: Record) -> Iterator[Finding]:
        render, limit = self._options.renderer, self._options.max_tokens
        if render is None:
            self._sizes.append(len(record.text))
            return
        try:
            rendered = render(record)
        except DeepwellError as error:
            yield Finding("template", error.message)
            return
        self.sample = self.sample or rendered.text
        self._sizes.append(rendered.tokens)
        if limit and rendered.tokens > limit:
            yield Finding("tokens", f"{rendered.tokens}")
