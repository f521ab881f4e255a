"""The requests of reranking (`/rerank`, with vLLM's, Cohere's and Jina's names) and of scoring (`/score`, with vLLM's)."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self, cast

from pydantic import BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from deepwell.server.http.schema import Strict, crossed, only_values, refuse

__all__ = ["MAX_DOCUMENTS", "Method", "RerankRequest", "ScoreRequest"]

MAX_DOCUMENTS = 2048
"""The most documents or pairs of a request, as many as it may have inputs to embed."""

Method = Literal["embedding", "likelihood"]
"""The way in which texts are compared."""


class Document(Strict):
    """A document as an object."""

    text: str


def _document(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    members = cast("dict[str, Any]", value)
    if members.keys() != {"text"}:
        raise PydanticCustomError("document", "a document is a string, or an object with its 'text' alone")
    return members["text"]


def _texts(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


_Text = Annotated[str, Field(min_length=1)]
_Documents = Annotated[
    list[Annotated[_Text, BeforeValidator(_document, json_schema_input_type=str | Document)]],
    Field(min_length=1, max_length=MAX_DOCUMENTS),
]
_Texts = Annotated[
    list[_Text],
    Field(min_length=1, max_length=MAX_DOCUMENTS),
    BeforeValidator(_texts, json_schema_input_type=str | list[str]),
]
_whole = refuse("texts are never cut: leave it out, and split long ones")


class _RankingRequest(Strict):
    """The parameters that reranking and scoring share."""

    model: str | None = None
    method: Annotated[Method | None, only_values("the method", "embedding", "likelihood")] = Field(
        None,
        description="`embedding`: cosine of the embeddings, -1 to 1. `likelihood`: probability of one text after the other, "
        "geometric mean over its tokens, 0 to 1.",
    )
    user: str | None = None
    truncate_prompt_tokens: Annotated[Any, _whole] = None
    priority: Annotated[Any, refuse("priorities belong to keys: leave priority out", 0)] = None
    mm_processor_kwargs: Annotated[
        Any, refuse("only text is compared: leave mm_processor_kwargs out", {})
    ] = None
    encoding_format: Annotated[Any, refuse("scores are numbers: leave encoding_format out", "float")] = None
    activation: Annotated[Any, refuse("scores are as the method defines them: leave activation out")] = None
    use_activation: Annotated[
        Any, refuse("scores are as the method defines them: leave use_activation out")
    ] = None


class RerankRequest(_RankingRequest):
    """`POST /rerank`, `/v1/rerank` and `/v2/rerank`."""

    query: _Text
    documents: _Documents = Field(description="Texts, or objects with a `text`.")
    top_n: int | None = Field(None, ge=0, description="The most results; 0: all.")
    return_documents: bool | None = Field(
        None, description="Whether results have the text of their document."
    )
    max_tokens_per_doc: Annotated[Any, _whole] = None
    max_chunks_per_doc: Annotated[Any, _whole] = None
    rank_fields: Annotated[Any, refuse("a document has its text alone: leave rank_fields out")] = None


class ScoreRequest(_RankingRequest):
    """`POST /score` and `/v1/score`: one text with one, one with several, or several with as many."""

    text_1: _Texts
    text_2: _Texts

    @model_validator(mode="after")
    def _paired(self) -> Self:
        if len(self.text_1) not in (1, len(self.text_2)):
            raise crossed(
                "text_2",
                f"text_1 has {len(self.text_1)} texts and text_2 has {len(self.text_2)}: send one text_1, or as many of both",
            )
        return self
