"""The tools of a response: functions that clients run; `file_search`, `image_generation` and `mcp`, which the server runs."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError

from deepwell.server.families.responses.image_schema import ImageChoice, ImageSpec
from deepwell.server.families.responses.mcp.schema import McpChoice, McpSpec
from deepwell.server.families.vector_stores.schema import Filters, MaxResults
from deepwell.server.http.schema import (
    TAG_MARK,
    Strict,
    crossed,
    kind_of,
    only_values,
    refuse,
    unsupported,
)

__all__ = [
    "CHOICE_TYPES",
    "TOOL_TYPES",
    "AllowedTools",
    "FileSearchChoice",
    "FileSearchSpec",
    "NamedTool",
    "Tool",
    "ToolChoice",
    "ToolSpec",
]

TOOL_TYPES = ("function", "file_search", "image_generation", "mcp")
CHOICE_TYPES = ("function", "allowed_tools", "file_search", "image_generation", "mcp")
_BUILT_IN = ("file_search", "image_generation", "mcp")
_RANKERS = ("auto", "default-2024-11-15")
_MOST_STORES = 8


def _tool_known(value: Any) -> Any:
    kind = kind_of(value)
    if kind not in TOOL_TYPES:
        raise PydanticCustomError(
            "unsupported",
            "tools of type {kind} are not supported: declare functions and run them yourself, or use file_search,"
            " image_generation or mcp",
            {"kind": repr(kind)},
        )
    return value


def _tool_kind(value: Any) -> str:
    kind = kind_of(value)
    return TAG_MARK + (kind if kind in _BUILT_IN else "function")


class ToolSpec(Strict):
    """A function that the model may call."""

    type: Literal["function"]
    name: str = Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    allowed_callers: Annotated[Any, refuse("only the model calls: leave allowed_callers out", ["direct"])] = (
        None
    )
    defer_loading: Annotated[Any, refuse("tools are all shown: leave defer_loading out", False)] = None
    output_schema: Annotated[Any, refuse("outputs are not checked: leave output_schema out")] = None


class HybridSearch(Strict):
    """The weights of the two rankings that a search fuses. A weight of 0 leaves one of them out."""

    embedding_weight: float = Field(ge=0)
    text_weight: float = Field(ge=0)

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        if self.embedding_weight == self.text_weight == 0:
            raise crossed("tools.ranking_options.hybrid_search", "one of the two weights must be above 0")
        if self.embedding_weight and self.text_weight and self.embedding_weight != self.text_weight:
            raise unsupported(
                "weights of hybrid_search other than equal ones are not supported: the fusion was measured with these;"
                " send 0 to leave a ranking out"
            )
        return self


class FileSearchRanking(Strict):
    """The order of results, and the score that they need."""

    ranker: Annotated[Literal["auto", "default-2024-11-15"] | None, only_values("the ranker", *_RANKERS)] = (
        Field(None, description="Both: with the reranker of the server, if it has one.")
    )
    score_threshold: float | None = Field(None, ge=0, le=1)
    hybrid_search: HybridSearch | None = None


class FileSearchSpec(Strict):
    """A search in vector stores, which the server runs before the model answers."""

    type: Literal["file_search"]
    vector_store_ids: list[Annotated[str, Field(min_length=1, max_length=64)]] = Field(
        min_length=1, max_length=_MOST_STORES
    )
    max_num_results: MaxResults | None = None
    filters: Filters | None = None
    ranking_options: FileSearchRanking | None = None


Tool = Annotated[
    Annotated[ToolSpec, Tag(f"{TAG_MARK}function")]
    | Annotated[FileSearchSpec, Tag(f"{TAG_MARK}file_search")]
    | Annotated[ImageSpec, Tag(f"{TAG_MARK}image_generation")]
    | Annotated[McpSpec, Tag(f"{TAG_MARK}mcp")],
    Discriminator(_tool_kind),
    BeforeValidator(_tool_known),
]


class NamedTool(Strict):
    """The one function that must be called."""

    type: Literal["function"]
    name: str


class FileSearchChoice(Strict):
    """The search, which must be run."""

    type: Literal["file_search"]


AllowedTool = Annotated[
    Annotated[NamedTool, Tag(f"{TAG_MARK}function")]
    | Annotated[FileSearchChoice, Tag(f"{TAG_MARK}file_search")]
    | Annotated[ImageChoice, Tag(f"{TAG_MARK}image_generation")]
    | Annotated[McpChoice, Tag(f"{TAG_MARK}mcp")],
    Discriminator(_tool_kind),
    BeforeValidator(_tool_known),
]


class AllowedTools(Strict):
    """Some of the tools."""

    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: list[AllowedTool] = Field(min_length=1, max_length=128)


def _choice_kind(value: Any) -> str:
    if isinstance(value, str):
        return f"{TAG_MARK}mode"
    return TAG_MARK + (kind_of(value) or "function")


def _choice_known(value: Any) -> Any:
    kind = kind_of(value)
    if kind and kind not in CHOICE_TYPES:
        raise unsupported(
            f"a tool_choice of type {kind!r} is not supported: send 'function', 'file_search', 'image_generation',"
            " 'mcp' or 'allowed_tools'"
        )
    return value


ToolChoice = Annotated[
    Annotated[
        Annotated[Literal["none", "auto", "required"], Tag(f"{TAG_MARK}mode")]
        | Annotated[NamedTool, Tag(f"{TAG_MARK}function")]
        | Annotated[FileSearchChoice, Tag(f"{TAG_MARK}file_search")]
        | Annotated[ImageChoice, Tag(f"{TAG_MARK}image_generation")]
        | Annotated[McpChoice, Tag(f"{TAG_MARK}mcp")]
        | Annotated[AllowedTools, Tag(f"{TAG_MARK}allowed_tools")],
        Discriminator(_choice_kind),
        BeforeValidator(_choice_known),
    ],
    Field(),
]
