"""The verb `deepwell bench targets`: every promised figure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from deepwell.cli.output import reported_errors
from deepwell_bench.cli.options import Json, Threads, usable_threads

if TYPE_CHECKING:
    from deepwell.cli.bench.report import Outcome
    from deepwell_bench.harness.targets import Target

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
        from deepwell.cli.bench.report import Report
        from deepwell_bench.harness.page import write_page
        from deepwell_bench.harness.targets import run_target, select

        report = Report(as_json=json)
        chosen = select(pattern)
        if list_only:
            columns = ["name", "bar", "minutes", "command"]
            report.table("Targets", columns, [[t.name, t.bar, t.minutes, t.command] for t in chosen])
            return
        outcomes: list[Outcome] = []
        left_out: dict[str, str] = {}
        for target in chosen:
            if reason := _lacks(target):
                left_out[target.name] = reason
                report.note(f"{target.name}: not run: {reason}")
                continue
            report.note(f"{target.name}: {target.command} (at most {target.minutes:g} minutes)")
            outcomes.append(run_target(target))
            report.finish(outcomes[-1])
        page = write_page(outcomes, usable_threads(threads)) if outcomes else None
    by_name = {outcome.name: outcome for outcome in outcomes}
    report.table(
        "Targets",
        ["name", "measured", "bar", "holds"],
        [[target.name, *_cells(target, by_name.get(target.name), left_out)] for target in chosen],
    )
    if page:
        report.note(f"written: {page}")
    if not all(outcome.holds for outcome in outcomes):
        raise typer.Exit(1)


def _lacks(target: Target) -> str:
    """Returns what a row needs and this machine lacks; empty: it can run here."""
    if target.needs != "gpu":
        return ""
    from deepwell.errors import MissingDependency
    from deepwell_bench.cli.deploy import gpu_setup
    from deepwell_bench.suites.fleet.gpu import check_setup

    try:
        check_setup(gpu_setup())
    except MissingDependency as error:
        return error.message
    return ""


def _cells(target: Target, outcome: Outcome | None, left_out: dict[str, str]) -> list[str]:
    """Returns what the table says of a row: figures, bar, and whether it holds."""
    if outcome is None:
        return [left_out[target.name], target.bar, "not run"]
    measured = ", ".join(f"{key} {outcome.value.get(key)}" for key in target.limits)
    return [measured, target.bar, "yes" if outcome.holds else "NO"]
