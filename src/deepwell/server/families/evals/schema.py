"""The requests of `/v1/evals`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from deepwell.server.families.pages import PageQuery
from deepwell.server.http.schema import Metadata, Strict, only_kinds

__all__ = [
    "EvalRequest",
    "EvalRunRequest",
    "EvalUpdateRequest",
    "EvalsQuery",
    "FileContent",
    "FileId",
    "ItemsQuery",
    "JsonlSource",
    "RowsSource",
    "RunsQuery",
    "SampledSource",
    "SamplingParams",
]

_MOST_CRITERIA = 20
_MOST_ROWS = 10_000  # given in the request itself
_Name = Annotated[str, Field(min_length=1, max_length=512, pattern=r"^[^\x00]*$")]


class CustomConfig(Strict):
    """The shape of the rows: a JSON schema of `item`. Rows must have the fields that it requires."""

    type: Literal["custom"]
    item_schema: dict[str, Any]
    include_sample_schema: bool = False


class EvalRequest(Strict):
    """Makes an evaluation: the shape of its rows, and the graders of its runs."""

    data_source_config: Annotated[CustomConfig, only_kinds("data source configurations", "custom")]
    testing_criteria: list[dict[str, Any]] = Field(min_length=1, max_length=_MOST_CRITERIA)
    name: _Name | None = None
    metadata: Metadata | None = None


class EvalUpdateRequest(Strict):
    """Changes name or metadata of an evaluation."""

    name: _Name | None = None
    metadata: Metadata | None = None


class Row(Strict):
    """A row of the data. `sample` is the answer to judge, where none is generated."""

    item: dict[str, Any]
    sample: dict[str, Any] | None = None


class FileContent(Strict):
    """Rows in the request."""

    type: Literal["file_content"]
    content: list[Row] = Field(min_length=1, max_length=_MOST_ROWS)


class FileId(Strict):
    """Rows in a file, one a line as JSON."""

    type: Literal["file_id"]
    id: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[^\x00-\x20\x7f]+$")]


RowsSource = Annotated[
    FileContent | FileId, only_kinds("sources", "file_content", "file_id"), Field(discriminator="type")
]


class Template(Strict):
    """Messages with variables, such as item.question between double braces."""

    type: Literal["template"]
    template: list[dict[str, Any]] = Field(min_length=1, max_length=100)


class ItemReference(Strict):
    """A field of the row that holds the messages, such as item.messages."""

    type: Literal["item_reference"]
    item_reference: Annotated[str, Field(min_length=1, max_length=256)]


class SamplingParams(Strict):
    """Sampling parameters of the answers to judge."""

    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    seed: int | None = None
    reasoning_effort: str | None = None
    response_format: dict[str, Any] | None = None
    text: dict[str, Any] | None = None
    tools: list[dict[str, Any]] | None = Field(None, max_length=128)


class JsonlSource(Strict):
    """Rows with the answers to judge, or without any."""

    type: Literal["jsonl"]
    source: RowsSource


class SampledSource(Strict):
    """Rows whose answers a served model gives, through chat completions or responses."""

    type: Literal["completions", "responses"]
    source: RowsSource
    model: Annotated[str, Field(min_length=1, max_length=256)]
    input_messages: Annotated[
        Annotated[
            Template | ItemReference,
            only_kinds("input messages", "template", "item_reference"),
            Field(discriminator="type"),
        ],
        Field(),
    ]
    sampling_params: SamplingParams | None = None


class EvalRunRequest(Strict):
    """Starts a run."""

    data_source: Annotated[
        JsonlSource | SampledSource,
        only_kinds("data sources", "jsonl", "completions", "responses"),
        Field(discriminator="type"),
    ]
    name: _Name | None = None
    metadata: Metadata | None = None


class EvalsQuery(PageQuery):
    """A page of evaluations."""

    order: Literal["asc", "desc"] = "asc"
    order_by: Literal["created_at", "updated_at"] = "created_at"


class RunsQuery(PageQuery):
    """A page of runs."""

    order: Literal["asc", "desc"] = "asc"
    status: Literal["queued", "in_progress", "completed", "canceled", "failed"] | None = None


class ItemsQuery(BaseModel):
    """A page of output items."""

    model_config = ConfigDict(extra="forbid")

    after: str | None = None
    limit: int = Field(20, ge=1, le=100)
    order: Literal["asc", "desc"] = "asc"
    status: Literal["fail", "pass"] | None = None
