"""`deepwell data dedup`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
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
from deepwell.cli.ray.options import LOCAL, Cpus, On, executor_on, print_tally, tally_json, there
from deepwell.messages import say

if TYPE_CHECKING:
    from deepwell.fleet.pieces.kept import KeptPieces
    from deepwell.fleet.pieces.piece import Executor, Tally
    from deepwell.fleet.pieces.sketches import SpreadSketcher
    from deepwell.fleet.pieces.vectors import SpreadEmbedder
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
    on: On = LOCAL,
    cpus: Cpus = 1,
    json: JsonFlag = False,
) -> None:
    """Drop duplicates from training data: exact, near (MinHash, verified exactly) and, if wanted, of like meaning."""
    from deepwell.tuning.data.dedup import DedupOptions
    from deepwell.tuning.data.minhash import sketch

    with reported_errors(as_json=json), ExitStack() as stack:
        dropped_file = removed or removed_file(output)
        refuse_overwriting([output, dropped_file], files)
        spread = None if on == LOCAL else stack.enter_context(_spread(on, cpus, output))
        if not semantic:
            embedder = None
        elif spread is None:
            embedder = stack.enter_context(_embedder(embedding_model, shown=not json))
        else:
            embedder = spread.embedder(embedding_model, shown=not json)
        options = DedupOptions(
            near=not exact,
            min_similarity=min_similarity,
            width=shingle,
            compared=compare,
            embedder=embedder,
            min_cosine=min_cosine,
            against=evaluation_set(against),
            sketcher=spread.sketcher if spread else sketch,
        )
        found = _run(files, format, options, (output, dropped_file), shown=not json)
        cut = embedder.cut if embedder else 0
        if spread is not None:
            spread.kept.remove()
        tally = spread.tally() if spread else None
        if json:
            places = {"output": str(output), "removed": str(dropped_file)}
            computed = tally_json(on, tally) if tally else {}
            write_json({**found.to_json(), "embedded_in_part": cut, **computed, **places})
            return
        _print(found, cut, (output, dropped_file))
        if tally:
            print_tally(on, tally)


def _print(found: Deduplication, cut: int, outputs: tuple[Path, Path]) -> None:
    """Prints what was dropped and why; `cut` texts were embedded in part."""
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
    print_outputs(found.report, *outputs)


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


@dataclass(frozen=True, slots=True)
class _Spread:
    """Computes sketches and vectors on a cluster, and keeps them until the output is written."""

    executor: Executor
    kept: KeptPieces
    cpus: int
    sketcher: SpreadSketcher
    embedders: list[SpreadEmbedder] = field(default_factory=list["SpreadEmbedder"])

    def embedder(self, model: str, *, shown: bool) -> SpreadEmbedder:
        from deepwell.fleet.pieces.vectors import EmbedTexts, SpreadEmbedder

        recipe = EmbedTexts(there(model), self.cpus)
        made = SpreadEmbedder(
            self.executor,
            recipe,
            self.kept,
            lambda count: counting(say("data_embedding"), count, shown=shown),
        )
        self.embedders.append(made)
        return made

    def tally(self) -> Tally:
        from deepwell.fleet.pieces.piece import Tally

        return Tally.sum_of([self.sketcher.tally, *(one.tally for one in self.embedders)])


@contextmanager
def _spread(place: str, cpus: int, output: Path) -> Iterator[_Spread]:
    from deepwell.fleet.pieces.kept import KeptPieces, folder_for
    from deepwell.fleet.pieces.sketches import SpreadSketcher

    with executor_on(place, cpus) as executor:
        kept = KeptPieces(folder_for(output))
        yield _Spread(executor, kept, cpus, SpreadSketcher(executor, kept))


@contextmanager
def _embedder(name: str, *, shown: bool) -> Iterator[EngineEmbedder]:
    from deepwell.llm import LLM
    from deepwell.tuning.data.model import EngineEmbedder

    with LLM(name) as llm:
        yield EngineEmbedder(llm, lambda count: counting(say("data_embedding"), count, shown=shown))
