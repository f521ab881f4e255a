"""The real tools of a task, in a folder of its own, and a knowledge base that all tasks of one workload share."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from deepwell.agents.tools import (
    KnowledgePassage,
    Searcher,
    Tool,
    calculator,
    file_tools,
    knowledge_tool,
    sql_tools,
)
from deepwell.knowledge.local import LocalKnowledge
from deepwell.knowledge.search import SearchOptions
from deepwell.settings import Settings
from deepwell_bench.workloads.agents.task import Fixtures

__all__ = ["TENANT", "opened_searcher", "tools_of"]

TENANT = "bench"
_EMBEDDER = "e5-small-q4"


def tools_of(folder: Path, searcher: Searcher, *, write: bool) -> list[Tool]:
    """Returns the tools of a task: the calculator, files, SQL and knowledge; with `write` the one that writes files."""
    return [
        calculator(),
        *file_tools(folder, write=write),
        *sql_tools(folder),
        knowledge_tool(searcher, about="the handbook of the house"),
    ]


@asynccontextmanager
async def opened_searcher(fixtures: Fixtures) -> AsyncIterator[Searcher]:
    """Ingests the documents into a knowledge base in a folder of its own, and searches it by words and vectors."""
    with tempfile.TemporaryDirectory() as text:
        home = Path(text)
        # The models stay where they are; the database and the index lie in the folder.
        settings = Settings.load().model_copy(update={"data_dir": home / "data"})
        paths = list[Path]()
        for name, document in fixtures.documents.items():
            path = home / name
            path.write_text(document, encoding="utf-8")
            paths.append(path)
        async with LocalKnowledge(settings) as knowledge:
            store = await knowledge.create("handbook", embedder=_EMBEDDER)
            await knowledge.add_files(store.id, paths)

            async def search(_tenant: str, query: str, limit: int, /) -> Sequence[KnowledgePassage]:
                found = await knowledge.search(store.id, query, SearchOptions(limit=limit))
                return [KnowledgePassage(one.filename, one.text, one.score) for one in found]

            yield search
