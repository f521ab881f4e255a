"""Settings of knowledge: the embedder, the reranker, the sources that may be read, and the grounding of answers."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator
from pydantic_settings import NoDecode

from deepwell.settings.section import Section

__all__ = ["KnowledgeSettings"]

_Listed = Annotated[list[str], NoDecode]


class KnowledgeSettings(Section):
    """The section of knowledge: the embedder, the reranker, the sources that may be read, and the grounding of answers."""

    knowledge_embedder: str = Field(
        "e5-small-q4",
        description="Model that embeds the texts of new knowledge bases: a name in the store or the catalog.",
    )
    knowledge_vectors: Literal["files", "pgvector"] = Field(
        "files",
        description="Place of the vectors that are searched: files of each machine, or PostgreSQL with pgvector, for all.",
    )
    knowledge: str | None = Field(
        None,
        description="Knowledge base whose passages ground every chat answer of the server, with citations.",
    )
    knowledge_min_score: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Least score of a passage that may ground an answer; 0: the measured default.",
    )
    knowledge_reranker: str | None = Field(
        None,
        description="Model that generates text and reorders the best passages of searches; unset: words and vectors alone.",
    )
    knowledge_hosts: _Listed = Field(
        default_factory=list[str],
        description="Hosts or networks inside your own network that sources may read, such as wiki.internal or 10.1.0.0/16.",
    )
    ingest_jobs: int = Field(
        2,
        ge=0,
        le=64,
        description="Files that one server process ingests at a time; 0: none, another does it.",
    )

    @field_validator("knowledge_hosts", mode="before")
    @classmethod
    def _split_hosts(cls, value: Any) -> Any:
        return value.replace(",", " ").split() if isinstance(value, str) else value
