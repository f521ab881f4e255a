"""The fields of OpenAI's graders, checked by pydantic where they come in."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

__all__ = [
    "Grader",
    "LabelModel",
    "Message",
    "Multi",
    "Sampling",
    "ScoreModel",
    "StringCheck",
    "TextPart",
    "TextSimilarity",
    "templates_of",
]

_MAX_GRADERS = 20  # of a multi grader
_MAX_LABELS = 100


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TextPart(_Part):
    """A text in the content of a message."""

    type: Literal["input_text", "output_text", "text"]
    text: str


class Message(_Part):
    """A message to a grading model. Its text is a template."""

    role: Literal["user", "assistant", "system", "developer"]
    content: str | TextPart | list[str | TextPart]
    type: Literal["message"] = "message"

    @property
    def text(self) -> str:
        """The text of the content, parts joined by newlines."""
        parts = self.content if isinstance(self.content, list) else [self.content]
        return "\n".join(part if isinstance(part, str) else part.text for part in parts)


class Sampling(_Part):
    """Sampling parameters of a grading model, by OpenAI's names."""

    max_completions_tokens: int | None = Field(None, ge=1)
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    seed: int | None = None
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)


class _Named(_Part):
    name: str = Field(min_length=1, max_length=200)


class StringCheck(_Named):
    """Compares two texts: equal, not equal, contained, or contained whatever the case."""

    type: Literal["string_check"]
    input: str
    reference: str
    operation: Literal["eq", "ne", "like", "ilike"]


class TextSimilarity(_Named):
    """Similarity of a text to a reference, from 0 to 1."""

    type: Literal["text_similarity"]
    input: str
    reference: str
    evaluation_metric: Literal[
        "cosine",
        "fuzzy_match",
        "bleu",
        "gleu",
        "meteor",
        "rouge_1",
        "rouge_2",
        "rouge_3",
        "rouge_4",
        "rouge_5",
        "rouge_l",
    ]
    pass_threshold: float | None = None


class LabelModel(_Named):
    """A label that a model chooses; some labels pass."""

    type: Literal["label_model"]
    model: str = Field(min_length=1)
    input: list[Message] = Field(min_length=1)
    labels: list[str] = Field(min_length=1, max_length=_MAX_LABELS)
    passing_labels: list[str] = Field(min_length=1)

    @model_validator(mode="after")
    def _known_labels(self) -> LabelModel:
        if strange := sorted(set(self.passing_labels) - set(self.labels)):
            raise ValueError(f"passing_labels has {strange[0]!r}, which is no label")
        return self


class ScoreModel(_Named):
    """A number that a model gives within a range."""

    type: Literal["score_model"]
    model: str = Field(min_length=1)
    input: list[Message] = Field(min_length=1)
    range: tuple[float, float] = (0.0, 1.0)
    sampling_params: Sampling | None = None
    pass_threshold: float | None = None

    @model_validator(mode="after")
    def _ordered(self) -> ScoreModel:
        if not all(map(math.isfinite, self.range)) or self.range[0] >= self.range[1]:
            raise ValueError("range must be a smaller and a larger number")
        return self


class Multi(_Named):
    """A formula over the scores of other graders."""

    type: Literal["multi"]
    graders: dict[str, StringCheck | TextSimilarity | ScoreModel | LabelModel] = Field(
        min_length=1, max_length=_MAX_GRADERS
    )
    calculate_output: str
    pass_threshold: float | None = None

    @model_validator(mode="before")
    @classmethod
    def _by_name(cls, given: Any) -> Any:
        """A single grader, as the SDK's types have it, goes by its own name."""
        graders = given.get("graders") if isinstance(given, Mapping) else None
        if isinstance(graders, Mapping) and isinstance(graders.get("type"), str):
            return {**given, "graders": {str(graders.get("name", "grader")): graders}}
        return given


Grader = StringCheck | TextSimilarity | LabelModel | ScoreModel | Multi
"""A grader of any kind."""


def templates_of(grader: Grader) -> list[str]:
    """Returns the templates of a grader, and of the graders in it."""
    found: list[str] = []
    for part in grader.graders.values() if isinstance(grader, Multi) else (grader,):
        if isinstance(part, StringCheck | TextSimilarity):
            found += [part.input, part.reference]
        elif isinstance(part, LabelModel | ScoreModel):
            found += [one.text for one in part.input]
    return found
