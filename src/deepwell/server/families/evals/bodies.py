"""The bodies of `/v1/evals`."""

from __future__ import annotations

from typing import Any

from msgspec import Struct, field

__all__ = [
    "CriterionResult",
    "Eval",
    "EvalDeleted",
    "EvalError",
    "EvalItem",
    "EvalItemList",
    "EvalList",
    "EvalResult",
    "EvalRun",
    "EvalRunDeleted",
    "EvalRunList",
    "EvalSample",
    "EvalUsage",
    "ModelUsage",
    "ResultCounts",
    "SampleMessage",
]


class Eval(Struct, tag_field="object", tag="eval"):
    """An evaluation."""

    id: str
    name: str
    created_at: int
    data_source_config: dict[str, Any]
    testing_criteria: list[dict[str, Any]]
    metadata: dict[str, str] | None


class EvalList(Struct, tag_field="object", tag="list"):
    """A page of evaluations."""

    data: list[Eval]
    first_id: str | None
    last_id: str | None
    has_more: bool


class EvalDeleted(Struct, tag_field="object", tag="eval.deleted"):
    """An evaluation that is gone."""

    eval_id: str
    deleted: bool = True


class EvalError(Struct):
    """An error; both texts are empty where there is none."""

    code: str = ""
    message: str = ""


class ResultCounts(Struct):
    """Items by result."""

    errored: int
    failed: int
    passed: int
    total: int


class CriterionResult(Struct):
    """Items that a grader judged, by result."""

    testing_criteria: str
    passed: int
    failed: int


class ModelUsage(Struct):
    """Tokens of a model in a run."""

    model_name: str
    invocation_count: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0
    cached_tokens: int = 0


class EvalRun(Struct, tag_field="object", tag="eval.run"):
    """A run."""

    id: str
    eval_id: str
    name: str
    created_at: int
    status: str
    model: str
    data_source: dict[str, Any]
    metadata: dict[str, str] | None
    error: EvalError
    report_url: str
    result_counts: ResultCounts
    per_model_usage: list[ModelUsage]
    per_testing_criteria_results: list[CriterionResult]


class EvalRunList(Struct, tag_field="object", tag="list"):
    """A page of runs."""

    data: list[EvalRun]
    first_id: str | None
    last_id: str | None
    has_more: bool


class EvalRunDeleted(Struct, tag_field="object", tag="eval.run.deleted"):
    """A run that is gone."""

    run_id: str
    deleted: bool = True


class EvalResult(Struct):
    """A grader's judgement on an item. `sample` has the model's choice and an error, where there are any."""

    name: str
    type: str
    passed: bool
    score: float
    sample: dict[str, Any] | None = None
    tokens: dict[str, int] = field(default_factory=dict[str, int])


class SampleMessage(Struct):
    """A message of a sample."""

    role: str
    content: str


class EvalUsage(Struct):
    """Tokens of a sample."""

    cached_tokens: int = 0
    completion_tokens: int = 0
    prompt_tokens: int = 0
    total_tokens: int = 0


class EvalSample(Struct):
    """The answer that was judged."""

    input: list[SampleMessage]
    output: list[SampleMessage]
    model: str = ""
    finish_reason: str = ""
    max_completion_tokens: int = 0
    seed: int = 0
    temperature: float = 0.0
    top_p: float = 1.0
    usage: EvalUsage = field(default_factory=EvalUsage)
    error: EvalError = field(default_factory=EvalError)


class EvalItem(Struct, tag_field="object", tag="eval.run.output_item"):
    """The result of a row."""

    id: str
    created_at: int
    datasource_item: dict[str, Any]
    datasource_item_id: int
    eval_id: str
    run_id: str
    results: list[EvalResult]
    sample: EvalSample
    status: str


class EvalItemList(Struct, tag_field="object", tag="list"):
    """A page of items."""

    data: list[EvalItem]
    first_id: str | None
    last_id: str | None
    has_more: bool
