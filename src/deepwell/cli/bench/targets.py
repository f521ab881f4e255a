"""The verb `deepwell bench targets`: every promised figure."""

from __future__ import annotations

from typing import Annotated

import typer

from deepwell.cli.bench.options import Json, Threads, usable_threads
from deepwell.cli.output import reported_errors

__all__ = ["targets"]


def targets(
    pattern: Annotated[
        str | None, typer.Argument(help="Regular expression on the names of rows; unset: all rows.")
    ] = None,
    threads: Threads = None,
    list_only: Annotated[bool, typer.Option("--list", help="List the rows, and run nothing.")] = False,
    json: Json = False,
) -> None:
    """Runs the rows of targets.toml, prints which hold, and writes docs/benchmarks.md."""
    with reported_errors(as_json=json):
        from deepwell.bench.harness.page import write_page
        from deepwell.bench.harness.report import Outcome, Report
        from deepwell.bench.harness.targets import run_target, select

        report = Report(as_json=json)
        chosen = select(pattern)
        if list_only:
            columns = ["name", "bar", "minutes", "command"]
            report.table("Targets", columns, [[t.name, t.bar, t.minutes, t.command] for t in chosen])
            return
        outcomes: list[Outcome] = []
        for target in chosen:
            report.note(f"{target.name}: {target.command} (at most {target.minutes:g} minutes)")
            outcomes.append(run_target(target))
            report.finish(outcomes[-1])
        page = write_page(outcomes, usable_threads(threads))
    report.table(
        "Targets",
        ["name", "measured", "bar", "holds"],
        [
            [
                target.name,
                ", ".join(f"{key} {outcome.value.get(key)}" for key in target.limits),
                target.bar,
                "yes" if outcome.holds else "NO",
            ]
            for target, outcome in zip(chosen, outcomes, strict=True)
        ],
    )
    report.note(f"written: {page}")
    if not all(outcome.holds for outcome in outcomes):
        raise typer.Exit(1)
