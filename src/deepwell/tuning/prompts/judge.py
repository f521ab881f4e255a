"""`Judge`: the metric of a search by its name, checked against the rows before a model is opened."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deepwell.tuning.evaluate.graders import parse_grader
from deepwell.tuning.evaluate.subjects import Subject
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
    parsed = parse_grader(grader)
    check_modelless(parsed)
    return Judge(
        [name, grader, most], lambda one: GraderMetric(one.llm, parsed, max_tokens=most, adapter=one.adapter)
    )


def journal_config(frozen: Frozen, subject: Subject, judge: Judge) -> Mapping[str, Any]:
    """Returns what the outcomes of a search depend on, for its journal."""
    return {
        "data": frozen.data_sha256,
        "model": subject.llm.capabilities.weights_hash,
        "adapter": subject.adapter,
        "context": subject.llm.context,
        "metric": judge.depends,
    }
