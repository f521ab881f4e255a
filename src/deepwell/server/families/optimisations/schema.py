"""The requests of `/v1/prompt_optimisations`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from deepwell.dialogue.prompts.text import ID_PATTERN, MAX_TEXT
from deepwell.server.http.schema import Metadata, Strict
from deepwell.tuning.prompts.run import LEAST_CALLS

__all__ = ["OptimisationRequest", "StartPrompt"]

_FileId = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[^\x00-\x20\x7f]+$")]
_Field = Annotated[str, Field(min_length=1, max_length=200)]
_Instructions = Annotated[str, Field(min_length=1, max_length=MAX_TEXT)]


class StartPrompt(Strict):
    """The stored prompt that the search begins with."""

    id: Annotated[str, Field(pattern=ID_PATTERN)]
    version: Annotated[str, Field(pattern=r"^[1-9][0-9]{0,8}$")] | None = Field(
        None, description="Number of the version; left out: the current one."
    )


class OptimisationRequest(Strict):
    """`POST /v1/prompt_optimisations`: a search over rows of a task."""

    prompt: StartPrompt
    model: str = Field(min_length=1, max_length=256, description="A served model that is no adapter.")
    data_file: _FileId = Field(
        description="Rows of the task: JSON lines with an input and, for label and exact, the right label or answer; "
        "at most 16 MB."
    )
    held_out_file: _FileId | None = Field(
        None, description="Held-out rows; left out: 30 % of the rows, by the hash of their input."
    )
    metric: Literal["label", "exact"] | dict[str, Any] = Field(
        "label",
        description="label: the likeliest of the labels; exact: the greedy answer; or a grader of type string_check, "
        "text_similarity or multi.",
    )
    calls: int = Field(
        2000,
        ge=LEAST_CALLS,
        le=1_000_000,
        description="Most questions of the search; each held-out row costs two more at the end.",
    )
    seed: int = Field(0, ge=0, le=2**31 - 1)
    max_examples: int = Field(16, ge=0, le=32, description="Most examples of a prompt.")
    max_tokens: int = Field(64, ge=1, le=4096, description="Most tokens of an answer, for exact and graders.")
    candidates: Annotated[list[_Instructions], Field(max_length=64)] = Field(
        default_factory=list[str], description="Further instructions to try."
    )
    input_field: _Field | None = Field(None, description="Left out: the first of input, text and question.")
    answer_field: _Field | None = Field(None, description="Left out: the first of label, answer and target.")
    current: bool = Field(
        True,
        description="Whether a winner that held-out rows confirm becomes the version that requests without one get.",
    )
    metadata: Metadata | None = None
