"""The knowledge tool: passages as a model reads them, and searches that find nothing or fail."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from deepwell.agents.tools import KnowledgePassage, ToolCallContext, ToolOutput, knowledge_tool
from deepwell.errors import NotFound

_CONTEXT = ToolCallContext("tenant", "run", "call", 5.0)


class Shelf:
    """Finds the passages that it holds, and remembers what it was asked."""

    def __init__(self, *passages: KnowledgePassage, error: NotFound | None = None) -> None:
        self.passages, self.error = passages, error
        self.asked: list[tuple[str, str, int]] = []

    async def __call__(self, tenant: str, query: str, limit: int, /) -> Sequence[KnowledgePassage]:
        self.asked.append((tenant, query, limit))
        if self.error is not None:
            raise self.error
        return self.passages


async def searched(shelf: Shelf, query: str = "leave") -> ToolOutput:
    return await knowledge_tool(shelf).run({"query": query}, _CONTEXT)


async def test_passages_come_with_their_sources() -> None:
    shelf = Shelf(
        KnowledgePassage("leave.txt", "28 days\n of  leave", 0.9), KnowledgePassage("b.txt", "other", 0.1)
    )
    output = await searched(shelf)
    assert output.text == "[1] leave.txt: 28 days of leave\n[2] b.txt: other"
    assert output.data[0] == {"source": "leave.txt", "text": "28 days\n of  leave", "score": 0.9}


async def test_the_search_is_of_the_tenant_of_the_call() -> None:
    shelf = Shelf()
    await searched(shelf)
    assert shelf.asked == [("tenant", "leave", 3)]


async def test_a_long_passage_is_cut_and_says_so() -> None:
    text = (await searched(Shelf(KnowledgePassage("a.txt", "x" * 5000, 1.0)))).text
    assert len(text) < 1600
    assert "3,500 more characters are not shown" in text


async def test_nothing_found_is_said() -> None:
    output = await searched(Shelf())
    assert not output.failed
    assert "Nothing was found" in output.text


@pytest.mark.parametrize("query", ["", "  ", "x" * 1001])
async def test_a_query_that_cannot_be_used_is_refused(query: str) -> None:
    shelf = Shelf()
    assert (await searched(shelf, query)).failed
    assert shelf.asked == []


async def test_a_search_that_fails_says_why() -> None:
    output = await searched(Shelf(error=NotFound("there is no store", fix="create it")))
    assert output.failed
    assert "there is no store" in output.text


def test_the_description_says_what_the_documents_are_about() -> None:
    assert "the handbook" in knowledge_tool(Shelf(), about="the handbook").description
