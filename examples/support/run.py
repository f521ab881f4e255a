"""A support desk over the LibreOffice help: `python examples/support/run.py`, then type a question in English or Chinese.

The first run fetches the help (Debian packages of 5 MB, by hash) and makes the knowledge base `office-help` of Writer's guides.
`--ask` asks without a terminal; a conversation that is handed over becomes a file in `handovers/`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from deepwell import AsyncLLM
from deepwell.agents.support import ANSWERS, DeskOptions, SupportDesk
from deepwell.errors import DeepwellError, NotFound
from deepwell.knowledge.answer.cite import GroundedAnswer
from deepwell.knowledge.answer.grounded import answer
from deepwell.knowledge.documents import Passage
from deepwell.knowledge.local import LocalKnowledge
from deepwell.knowledge.models import LLMWriter
from deepwell.knowledge.search import SearchOptions
from deepwell.knowledge.sources.opening import parse_source
from deepwell.settings import Settings
from deepwell_bench.harness.assets import bench_cache
from deepwell_bench.workloads.knowledge.libreoffice_help import help_passages

LEAST_CHARACTERS = 40  # of an English paragraph: shorter ones are headings and labels, which answer nothing
ALWAYS_A_PERSON = ("refund", "退款", "退货", "legal", "律师")


def pages(folder: Path, prefix: str, most: int) -> Path:
    """Writes pages of the help as Markdown, in both languages, and returns their folder."""
    texts: dict[str, list[str]] = {}
    for one in help_passages():
        heading = "#hd_" in one.id or len(one.english) < LEAST_CHARACTERS
        if one.page.startswith(prefix) and not heading:
            for language, title, above, text in (
                ("en", one.title_en, one.heading_en, one.english),
                ("zh", one.title_zh, one.heading_zh, one.chinese),
            ):
                lines = texts.setdefault(f"{language}/{Path(one.page).stem}.md", [f"# {title}"])
                if above and f"## {above}" not in lines and above != title:
                    lines.append(f"## {above}")
                lines.append(text)
    for name in sorted(texts, key=lambda one: (Path(one).name, one))[: 2 * most]:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n\n".join(texts[name]) + "\n", encoding="utf-8")
    return folder


async def base(knowledge: LocalKnowledge, name: str, most: int) -> str:
    """Returns the id of the knowledge base, which is made first if it is not there."""
    try:
        return (await knowledge.find(name)).id
    except NotFound:
        folder = pages(bench_cache() / "office-help", "text/swriter/guide/", most)
        print(f"making the knowledge base {name} of {2 * most} pages: a few minutes, once", file=sys.stderr)
        store = await knowledge.create(name)
        source = await knowledge.add_source(store, parse_source(str(folder), ()))
        await knowledge.refresh(source)
        await knowledge.ingest(
            store.id,
            lambda now: print(
                f"\r{now.completed} pages done, {now.waiting} tasks left ", end="", file=sys.stderr
            ),
        )
        print(file=sys.stderr)
        return store.id


async def serve(given: argparse.Namespace) -> int:
    """Holds one conversation, from `--ask` or from the terminal."""
    settings = Settings.load()
    async with LocalKnowledge(settings) as knowledge, AsyncLLM(given.model) as llm:
        store_id = await base(knowledge, given.base, given.pages)
        embedder = await knowledge.embedders.of_store(await knowledge.find(given.base))

        async def answering(messages: Sequence[Mapping[str, str]], seen: frozenset[str]) -> GroundedAnswer:
            async def search(query: str, limit: int) -> list[Passage]:
                found = await knowledge.searcher.find(
                    knowledge.tenant, store_id, query, SearchOptions(limit + 8 * len(seen))
                )
                return [one for one in found.passages if one.file_id not in seen][:limit]

            return await answer(messages, search, LLMWriter(llm), embedder, ANSWERS)

        desk = SupportDesk(answering, DeskOptions(always_a_person=ALWAYS_A_PERSON))
        for message in given.ask or iter(typed, None):
            reply = await desk.reply(message)
            if given.json:
                record = {"message": message, "state": reply.state, "text": reply.text}
                record["sources"] = [{"file": one.filename, "quote": one.quote} for one in reply.citations]
                print(json.dumps(record, ensure_ascii=False))
            else:
                print(reply.text)
                for one in {cited.number: cited for cited in reply.citations}.values():
                    print(f"  [{one.number}] {' > '.join((one.filename, *one.place.headings))}")
            if reply.handover:
                given.out.mkdir(parents=True, exist_ok=True)
                path = given.out / f"{time.time_ns()}.json"
                path.write_text(
                    json.dumps(reply.handover.record(), ensure_ascii=False, indent=2), encoding="utf-8"
                )
                print(f"\n{reply.handover.summary()}\n-> {path}", file=sys.stderr)
                break
    return 0


def typed() -> str | None:
    """Returns the next message from the terminal; None at its end."""
    while True:
        try:
            message = input("> ").strip()
        except EOFError:
            return None
        if message:
            return message


def main() -> int:
    """Reads the arguments and holds the conversation."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ask", action="append", help="a message; repeat it for a conversation")
    parser.add_argument("--base", default="office-help", help="knowledge base; any that you have made works")
    parser.add_argument("--model", default="qwen2.5-coder-0.5b", help="model of the store")
    parser.add_argument(
        "--pages", type=int, default=40, help="pages of each language, where the base is made"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("handovers"), help="folder of conversations for a person"
    )
    parser.add_argument("--json", action="store_true", help="print a line of JSON for each answer")
    try:
        return asyncio.run(serve(parser.parse_args()))
    except DeepwellError as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
