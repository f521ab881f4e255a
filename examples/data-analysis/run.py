"""Answers a question about tables: `python examples/data-analysis/run.py "QUESTION" [--data FOLDER] [--chart FILE]`."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from make_data import make

from deepwell.agents.analysis import Analysis, Analyst, draw_bars, load_tables
from deepwell.errors import DeepwellError
from deepwell.llm import AsyncLLM

HERE = Path(__file__).parent


async def answer(question: str, folder: Path, model: str, embedder: str) -> Analysis:
    """Returns the statement that a model wrote for a question, and its rows."""
    tables = await load_tables(folder)
    async with AsyncLLM(model) as llm, AsyncLLM(embedder) as encoder:

        async def write(messages: Sequence[Any]) -> str:
            return (await llm.chat(list(messages), max_tokens=160, temperature=0)).text

        async def embed(texts: Sequence[str]) -> Sequence[Sequence[float]]:
            return [[float(one) for one in vector] for vector in await encoder.embed(list(texts))]

        return await Analyst(tables, write, embed=embed).ask(question)


def main() -> int:
    """Prints the query, the tables that the model saw, and the rows; returns 1 if there are none."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "question", nargs="?", default="各种状态的订单各有多少？", help="question, in English or Chinese"
    )
    parser.add_argument(
        "--data", type=Path, default=None, help="folder of CSV and SQLite files; left out: the example's"
    )
    parser.add_argument("--model", default="qwen2.5-coder-0.5b", help="model of the store that writes SQL")
    parser.add_argument("--embedder", default="e5-small-q4", help="embedding model of the store")
    parser.add_argument(
        "--chart", type=Path, default=None, help="file for a bar chart, such as chart.svg or chart.png"
    )
    given = parser.parse_args()
    folder = given.data or HERE / "data"
    if given.data is None and not folder.is_dir():
        make(folder)
    try:
        found = asyncio.run(answer(given.question, folder, given.model, given.embedder))
    except DeepwellError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"tables: {', '.join(found.tables)}; statements written: {found.attempts}\n\n{found.sql}\n")
    if found.rows is None:
        print(f"No answer: {found.problem}")
        return 1
    print(" | ".join(found.rows.columns))
    for row in found.rows.rows[:50]:
        print(" | ".join("NULL" if cell is None else str(cell) for cell in row))
    if len(found.rows.rows) > 50 or found.rows.more:
        print("... and more rows")
    if given.chart:
        try:
            draw_bars(found.rows, found.question, given.chart)
        except DeepwellError as error:
            print(error, file=sys.stderr)
            return 2
        print(f"\nchart: {given.chart}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
