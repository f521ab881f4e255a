"""The requests of `/v1/fine_tuning/alpha/graders`."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from deepwell.server.http.schema import Strict

__all__ = ["GraderRunRequest", "GraderValidateRequest"]


class GraderValidateRequest(Strict):
    """Checks a grader."""

    grader: dict[str, Any] = Field(
        description="string_check, text_similarity, label_model, score_model or multi."
    )


class GraderRunRequest(GraderValidateRequest):
    """Judges an answer."""

    model_sample: Annotated[str, Field(max_length=1 << 20)] = Field(description="The answer.")
    item: dict[str, Any] | None = Field(None, description="The row of the data that it answers.")
