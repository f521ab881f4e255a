"""`deepwell data split`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deepwell.cli.data.options import (
    BAR_FROM,
    Files,
    FormatOption,
    print_report,
    reading,
    refuse_overwriting,
)
from deepwell.cli.output import JsonFlag, console, print_table, reported_errors, write_json
from deepwell.cli.progress import counting
from deepwell.messages import say

__all__ = ["split"]


def split(
    files: Files,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for the parts; it is made if it is not there.")
    ],
    fractions: Annotated[
        str,
        typer.Option(help="Names of the parts and their shares of the records.", metavar="NAME=SHARE,..."),
    ] = "train=0.9,validation=0.1",
    format: FormatOption = "auto",
    seed: Annotated[int, typer.Option(min=0, help="Seed of the order in which records are dealt.")] = 0,
    group: Annotated[
        list[str] | None,
        typer.Option(
            help="Field whose equal values keep records in one part; repeatable. Unset: user and source.",
            metavar="FIELD",
        ),
    ] = None,
    min_similarity: Annotated[
        float, typer.Option(min=0.5, max=1.0, help="Least similarity of records that stay in one part.")
    ] = 0.9,
    json: JsonFlag = False,
) -> None:
    """Split training data into parts: near-duplicates and records of one user stay together, labels have equal shares."""
    from deepwell.tuning.data.check import UNREADABLE
    from deepwell.tuning.data.records import BadRecord, Record, read_records, write_records
    from deepwell.tuning.data.report import DataReport, Example
    from deepwell.tuning.data.split import GROUP_FIELDS, parse_fractions, split_records

    with reported_errors(as_json=json):
        shares = parse_fractions(fractions)
        paths = {part: output / f"{part}.jsonl" for part in shares}
        output.mkdir(parents=True, exist_ok=True)
        refuse_overwriting(list(paths.values()), files)
        report = DataReport()
        records: list[Record] = []
        with reading(say("data_reading"), files, shown=not json) as advance:
            for one in report.reading(read_records(files, format)):
                advance(1)
                if isinstance(one, BadRecord):
                    report.drop(UNREADABLE, Example.of(one))
                else:
                    report.keep()
                    records.append(one)
        with counting(
            say("data_comparing"), len(records), shown=not json and len(records) > BAR_FROM
        ) as advance:
            made = split_records(
                records,
                shares,
                seed=seed,
                fields=group or GROUP_FIELDS,
                min_similarity=min_similarity,
                advance=advance,
            )
        for part, path in paths.items():
            chosen = (one for one, where in zip(records, made.parts, strict=True) if where == part)
            write_records(path, chosen)
        if json:
            files_made = {part: str(path) for part, path in paths.items()}
            write_json({**report.to_json(), **made.to_json(), "files": files_made})
        else:
            print_report(report)
            out = console()
            out.print(say("data_groups", groups=made.groups, largest=made.largest_group), soft_wrap=True)
            out.print()
            columns = [say(f"data_column_{name}") for name in ("part", "records", "share", "labels", "file")]
            rows = [
                [
                    part,
                    str(made.counts[part]),
                    f"{made.counts[part] / len(records):.1%}",
                    ", ".join(f"{label} {count}" for label, count in made.labels[part].items()) or "-",
                    str(paths[part]),
                ]
                for part in shares
            ]
            print_table(columns, rows, folded=columns[3:4])
