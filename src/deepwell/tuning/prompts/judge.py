"""`Judge`: the metric of a search by its name, checked against the rows before a model is opened."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from deepwell.errors import InvalidRequest
from deepwell.tuning.evaluate.graders import Grader, parse_grader, run_grader, sample_of
from deepwell.tuning.prompts.metrics import (
    ExactMetric,
    GraderMetric,
    LabelMetric,
    Metric,
    check_labels,
    check_modelless,
)
from deepwell.tuning.prompts.rows import Frozen, Row, labels_of
from deepwell.tuning.prompts.run import check_answers

if TYPE_CHECKING:
    from deepwell.tuning.evaluate.subjects import Subject

__all__ = ["Judge", "journal_config", "judge_of"]


@dataclass(frozen=True, slots=True)
class Judge:
    """A metric.

    Attributes:
        depends: what its outcomes depend on.
        metric: makes it for a model.
    """

    depends: Any
    metric: Callable[[Subject], Metric]


def judge_of(name: str, grader: Any, rows: Sequence[Row], max_tokens: int) -> Judge:
    """Returns the metric of a name.

    Args:
        name: label or exact; any other is the name of a grader.
        grader: JSON of the grader, for a metric that is one.
        rows: training and development rows.
        max_tokens: most tokens of an answer.

    Raises:
        InvalidRequest: rows lack answers, or the grader cannot be used.
    """
    most = max_tokens
    if name in ("label", "exact"):
        check_answers(name, rows)
    if name == "label":
        labels = labels_of(rows)
        check_labels(labels)
        return Judge([name, *labels], lambda one: LabelMetric(one.llm, labels, adapter=one.adapter))
    if name == "exact":
        return Judge([name, most], lambda one: ExactMetric(one.llm, max_tokens=most, adapter=one.adapter))
    parsed = parse_grader(grader, param="metric")
    check_modelless(parsed)
    if rows:
        asyncio.run(_try(parsed, rows[0]))
    return Judge(
        [name, grader, most], lambda one: GraderMetric(one.llm, parsed, max_tokens=most, adapter=one.adapter)
    )


async def _try(grader: Grader, row: Row) -> None:
    """Judges an empty answer, by which a grader shows that it can judge none."""
    grade = await run_grader(grader, item=row.fields, sample=sample_of(""))
    if grade.error and not grade.detail.startswith("{{ sample."):
        raise InvalidRequest.of("prompts_grader_failed", param="metric", reason=grade.detail)


def journal_config(frozen: Frozen, subject: Subject, judge: Judge) -> Mapping[str, Any]:
    """Returns what the outcomes of a search depend on, for its journal."""
    return {
        "data": frozen.data_sha256,
        "model": subject.llm.capabilities.weights_hash,
        "adapter": subject.adapter,
        "context": subject.llm.context,
        "metric": judge.depends,
    }
