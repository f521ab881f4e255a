"""`deepwell data dedup`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from deepwell.cli.data.options import (
    BAR_FROM,
    Against,
    Files,
    FormatOption,
    evaluation_set,
    print_outputs,
    print_report,
    reading,
    refuse_overwriting,
    removed_file,
)
from deepwell.cli.output import JsonFlag, console, reported_errors, write_json
from deepwell.cli.progress import counting
from deepwell.messages import say

if TYPE_CHECKING:
    from deepwell.tuning.data.dedup import Deduplication, DedupOptions
    from deepwell.tuning.data.model import EngineEmbedder
    from deepwell.tuning.data.records import Record

__all__ = ["dedup"]


def dedup(
    files: Files,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="File for the records that are kept, as JSON lines.")
    ],
    format: FormatOption = "auto",
    exact: Annotated[
        bool, typer.Option("--exact", help="Drop only records that are equal to the letter.")
    ] = False,
    semantic: Annotated[
        bool, typer.Option("--semantic", help="Drop records of like meaning, too, by an embedding model.")
    ] = False,
    min_similarity: Annotated[
        float, typer.Option(min=0.5, max=1.0, help="Least Jaccard similarity of near-duplicates.")
    ] = 0.9,
    min_cosine: Annotated[
        float,
        typer.Option(
            min=0.5, max=1.0, help="Least cosine of records of like meaning; the default suits e5-small-q4."
        ),
    ] = 0.98,
    shingle: Annotated[
        int,
        typer.Option(min=1, max=50, help="Words, or Chinese characters, in a row that are compared as one."),
    ] = 5,
    compare: Annotated[
        Literal["conversation", "prompt", "answer"],
        typer.Option(help="Part of a record that is compared; system messages never are."),
    ] = "conversation",
    against: Against = None,
    embedding_model: Annotated[
        str, typer.Option(help="Embedding model of --semantic: a name in the store, or a path.")
    ] = "e5-small-q4",
    removed: Annotated[
        Path | None,
        typer.Option(help="File for the dropped records with their reasons; unset: OUTPUT.removed.jsonl."),
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Drop duplicates from training data: exact, near (MinHash, verified exactly) and, if wanted, of like meaning."""
    from deepwell.tuning.data.dedup import DedupOptions

    with reported_errors(as_json=json), ExitStack() as stack:
        dropped_file = removed or removed_file(output)
        refuse_overwriting([output, dropped_file], files)
        embedder = stack.enter_context(_embedder(embedding_model, shown=not json)) if semantic else None
        options = DedupOptions(
            near=not exact,
            min_similarity=min_similarity,
            width=shingle,
            compared=compare,
            embedder=embedder,
            min_cosine=min_cosine,
            against=evaluation_set(against),
        )
        found = _run(files, format, options, (output, dropped_file), shown=not json)
        cut = embedder.cut if embedder else 0
        if json:
            places = {"output": str(output), "removed": str(dropped_file)}
            write_json({**found.to_json(), "embedded_in_part": cut, **places})
            return
        print_report(found.report)
        out = console()
        if found.cluster_sizes:
            count, most = len(found.cluster_sizes), found.cluster_sizes[0]
            out.print()
            out.print(say("data_clusters", count=count, most=most), soft_wrap=True)
        if found.passed_over:
            out.print(say("data_passed_over", count=found.passed_over), style="yellow", soft_wrap=True)
        if cut:
            out.print(say("data_embedded_in_part", count=cut), style="yellow", soft_wrap=True)
        print_outputs(found.report, output, dropped_file)


def _run(
    files: list[Path], format: FormatOption, options: DedupOptions, outputs: tuple[Path, Path], *, shown: bool
) -> Deduplication:
    from deepwell.tuning.data.dedup import Deduplication
    from deepwell.tuning.data.records import LineWriter, read_records, write_records

    found = Deduplication(options)
    with reading(say("data_reading"), files, shown=shown) as advance:
        found.read(read_records(files, format), advance)
    count = found.report.read
    large = shown and count > BAR_FROM
    with (
        counting(say("data_comparing"), count, shown=large) as advance,
        counting(say("data_comparing_meaning"), count, shown=large and options.embedder is not None) as meant,
    ):
        found.find(advance, meant)
    output, removed = outputs
    with LineWriter(removed) as writer, reading(say("data_writing"), files, shown=shown) as advance:
        write_records(output, _counted(found.kept(read_records(files, format), writer.write), advance))
    return found


def _counted(records: Iterable[Record], advance: Callable[[int], None]) -> Iterator[Record]:
    for one in records:
        advance(1)
        yield one


@contextmanager
def _embedder(name: str, *, shown: bool) -> Iterator[EngineEmbedder]:
    from deepwell.llm import LLM
    from deepwell.tuning.data.model import EngineEmbedder

    with LLM(name) as llm:
        yield EngineEmbedder(llm, lambda count: counting(say("data_embedding"), count, shown=shown))
