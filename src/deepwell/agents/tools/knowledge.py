"""`search_knowledge`: the tool that searches documents through whatever server or command line wire to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from deepwell.agents.tools.clues import document_clues
from deepwell.agents.tools.tool import Guide, Tool, ToolCallContext, ToolOutput
from deepwell.errors import DeepwellError
from deepwell.models.text.shipped import shipped

__all__ = ["KnowledgePassage", "Searcher", "knowledge_tool"]

_MOST_QUERY_CHARACTERS: Final = 1000
_MOST_PASSAGE_CHARACTERS: Final = 1500
_DESCRIPTION: Final = shipped("Search {about}: rules, rates, prices, limits and other facts.")
_QUERY: Final = shipped("What to look for, in a few words.")
_ADVICE: Final = (
    shipped("the words of the question that the facts are about"),
    shipped("这个问题要查的内容"),
)


@dataclass(frozen=True, slots=True)
class KnowledgePassage:
    """A passage that a search found.

    Attributes:
        source: name of its document.
        text: what it says.
        score: how well it fits, from 0 to 1.
    """

    source: str
    text: str
    score: float


class Searcher(Protocol):
    """Searches the documents of a tenant."""

    async def __call__(self, tenant: str, query: str, limit: int, /) -> Sequence[KnowledgePassage]:
        """Returns the passages that fit a query best, best first.

        Raises:
            DeepwellError: the search failed, in words for who asked.
        """
        ...


def knowledge_tool(searcher: Searcher, *, about: str = "the documents", limit: int = 3) -> Tool:
    """Returns the tool that searches documents.

    Args:
        about: what the documents are about, which tells a model when to search.
        limit: number of passages that a search returns at most.
    """

    async def run(arguments: Mapping[str, Any], context: ToolCallContext) -> ToolOutput:
        query = str(arguments["query"]).strip()
        if not query or len(query) > _MOST_QUERY_CHARACTERS:
            return ToolOutput(f"The query needs 1 to {_MOST_QUERY_CHARACTERS} characters.", failed=True)
        try:
            found = await searcher(context.tenant, query, limit)
        except DeepwellError as error:
            return ToolOutput(f"The search failed: {error}", failed=True)
        if not found:
            return ToolOutput("Nothing was found. Try other words.", data=[])
        passages = [
            f"[{number}] {one.source}: {_cut(one.text)}" for number, one in enumerate(found[:limit], start=1)
        ]
        data = [{"source": one.source, "text": one.text, "score": one.score} for one in found[:limit]]
        return ToolOutput("\n".join(passages), data=data)

    return Tool(
        "search_knowledge",
        _DESCRIPTION.format(about=about),
        {
            "type": "object",
            "properties": {
                "query": {
                    "type": "string",
                    "minLength": 1,
                    "description": _QUERY,
                }
            },
            "required": ["query"],
            "additionalProperties": False,
        },
        run,
        guide=Guide(
            lambda task: document_clues(task, about),
            _ADVICE,
            source="documents",
        ),
    )


def _cut(text: str) -> str:
    text = " ".join(text.split())
    if len(text) <= _MOST_PASSAGE_CHARACTERS:
        return text
    rest = len(text) - _MOST_PASSAGE_CHARACTERS
    return f"{text[:_MOST_PASSAGE_CHARACTERS]} ({rest:,} more characters are not shown)"
