"""Arguments and output that the actions of `deepwell data` share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from deepwell.messages import say

if TYPE_CHECKING:
    from deepwell.tuning.data.decontamination import EvaluationSet
    from deepwell.tuning.data.report import DataReport

__all__ = [
    "BAR_FROM",
    "Against",
    "Files",
    "FormatOption",
    "evaluation_set",
    "print_outputs",
    "print_report",
    "reading",
    "refuse_overwriting",
    "removed_file",
]

BAR_FROM = 20_000
"""Records from which a progress bar is worthwhile."""

_MOST_SHOWN = 100  # characters of an example


Files = Annotated[
    list[Path],
    typer.Argument(help="Training files: JSON lines, or one JSON array.", metavar="FILES"),
]
FormatOption = Annotated[
    Literal["auto", "chat", "sharegpt", "alpaca", "text"],
    typer.Option("--format", help="Shape of the records; auto: by the fields that each record has."),
]
Against = Annotated[
    list[Path] | None,
    typer.Option(
        help="Evaluation set whose texts may not be in the data: JSON lines of any shape; repeatable.",
        metavar="FILE",
    ),
]


@contextmanager
def reading(label: str, paths: Sequence[Path], *, shown: bool) -> Iterator[Callable[[int], None]]:
    """A progress bar over the records of files, where reading them takes more than a moment."""
    from deepwell.cli.progress import counting

    large = sum(path.stat().st_size for path in paths) > 8 << 20
    if not (shown and large):
        yield lambda _: None
        return
    lines = 0
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                lines += block.count(b"\n")
    with counting(label, lines, shown=True) as advance:
        yield advance


def evaluation_set(paths: Sequence[Path] | None) -> EvaluationSet | None:
    """Reads the evaluation sets, and tells on standard error what of them cannot be looked for."""
    from deepwell.cli.output import console
    from deepwell.tuning.data.decontamination import read_evaluation_set

    if not paths:
        return None
    found, unreadable = read_evaluation_set(paths)
    err = console(stderr=True)
    if unreadable:
        err.print(say("data_against_unreadable", count=unreadable), style="yellow", soft_wrap=True)
    if found.too_short:
        said = say("data_against_short", count=found.too_short, texts=found.texts)
        err.print(said, style="yellow", soft_wrap=True)
    if found.templates:
        err.print(say("data_against_templates", count=found.templates), style="yellow", soft_wrap=True)
    return found


def refuse_overwriting(outputs: Sequence[Path], inputs: Sequence[Path]) -> None:
    """Checks that no output is one of the inputs, and that its folder is there.

    Raises:
        InvalidRequest: it is.
        OSError: the folder is not there.
    """
    from deepwell.errors import InvalidRequest

    resolved = {path.resolve() for path in inputs}
    for path in outputs:
        if path.resolve() in resolved:
            raise InvalidRequest.of("data_output_is_input", path=path)
        path.parent.stat()


def removed_file(output: Path) -> Path:
    """Returns the file for the records that are dropped."""
    return output.with_name(f"{output.name}.removed.jsonl")


def print_outputs(report: DataReport, output: Path, removed: Path | None = None) -> None:
    """Prints where the kept and the dropped records are."""
    from deepwell.cli.output import console

    out = console()
    out.print()
    out.print(say("data_written", count=report.kept, path=output), soft_wrap=True)
    removed = removed or removed_file(output)
    out.print(say("data_removed", count=report.dropped.total(), path=removed), soft_wrap=True)


def print_report(report: DataReport) -> None:
    """Prints the counts of a report, each reason with its first example."""
    from deepwell.cli.output import console

    out = console()
    out.print(
        say("data_counts", read=report.read, kept=report.kept, dropped=report.dropped.total()), soft_wrap=True
    )
    kinds = (
        (say("data_dropped"), report.dropped),
        (say("data_cut"), report.cut),
        (say("data_warned"), report.warned),
    )
    width = max(14, *(len(reason) for _, counts in kinds for reason in counts), 0)
    for kind, counts in kinds:
        if counts:
            out.print()
            out.print(kind)
        for reason, count in counts.most_common():
            first = report.examples[reason][0]
            shown = " ".join(first.said().split())
            place = f"{first.source}:{first.line}"
            out.print(f"{count:>9}  {reason:<{width}}  {say(f'data_finding_{reason}')}", soft_wrap=True)
            out.print(
                f"{'':{width + 13}}{place}  {shown[:_MOST_SHOWN]}".rstrip(), style="dim", soft_wrap=True
            )
