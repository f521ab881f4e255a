"""The bodies of `/v1/fine_tuning/alpha/graders`."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

__all__ = ["GraderErrors", "GraderMetadata", "GraderRun", "GraderValidation"]


class GraderErrors(Struct):
    """Errors of a grade. Python graders do not run here, so their errors never occur."""

    formula_parse_error: bool = False
    invalid_variable_error: bool = False
    model_grader_parse_error: bool = False
    model_grader_refusal_error: bool = False
    model_grader_server_error: bool = False
    model_grader_server_error_details: str | None = None
    other_error: bool = False
    python_grader_runtime_error: bool = False
    python_grader_runtime_error_details: str | None = None
    python_grader_server_error: bool = False
    python_grader_server_error_type: str | None = None
    sample_parse_error: bool = False
    truncated_observation_error: bool = False
    unresponsive_reward_error: bool = False


class GraderMetadata(Struct):
    """Facts about a grade. `execution_time` is in seconds."""

    errors: GraderErrors
    execution_time: float
    name: str
    sampled_model_name: str | None
    scores: dict[str, float]
    token_usage: int | None
    type: str


class GraderRun(Struct):
    """A grade."""

    metadata: GraderMetadata
    model_grader_token_usage_per_model: dict[str, int]
    reward: float
    sub_rewards: dict[str, float]


class GraderValidation(Struct):
    """A grader that can be used."""

    grader: dict[str, Any]
