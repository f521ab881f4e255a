"""Verbs of `deepwell bench` on the repository: its tests, and an earlier commit beside this checkout."""

from __future__ import annotations

from typing import Annotated

import typer

from deepwell.messages import Language
from deepwell_bench.cli.options import Json, Model, Row, Threads, measure, model_path, usable_threads

__all__ = [
    "ci",
    "faults",
    "fresh_machine",
    "newcomer",
    "parity",
    "regression",
    "repository_tests",
    "unchanged",
    "wheel",
]

BASELINE = "99c5fe1"
Against = Annotated[
    str,
    typer.Option(
        help="Commit, branch or tag to compare with. Its environment is built once, in minutes; "
        "DEEPWELL_BENCH_REVISION names a checkout of it whose .venv is made already."
    ),
]


def parity(
    deepseek: Annotated[
        bool, typer.Option("--deepseek", help="Run the tests of DeepSeek and Qwen3-MoE alone.")
    ] = False,
    row: Row = None,
    json: Json = False,
) -> None:
    """Runs the parity suite against transformers, in its own environment."""
    from deepwell_bench.suites.repository.suites import bench_parity

    measure("parity", row, json, lambda report: bench_parity(report, deepseek=deepseek))


def newcomer(
    python: Annotated[str, typer.Option(help="Python interpreter that the newcomer has.")] = "python3",
    hour: Annotated[
        bool,
        typer.Option(
            "--hour",
            help="Run sixty steps of a first hour instead, in two widths of the terminal and two languages.",
        ),
    ] = False,
    columns: Annotated[
        int | None, typer.Option(min=40, help="Width of the terminal for --hour; unset: 60, then 120.")
    ] = None,
    chinese: Annotated[
        bool,
        typer.Option(
            "--chinese",
            help="Run `make run MODEL=...` without a hub instead, and ask ten questions that must be answered in Chinese.",
        ),
    ] = False,
    path: Annotated[
        Language | None,
        typer.Option(
            "--path",
            help="Language in which to play the learning path instead, all pages and notebooks from a clean install: en or zh.",
        ),
    ] = None,
    model: Annotated[
        str, typer.Option("--model", "-m", help="Model for --chinese, by its name in the catalog.")
    ] = "qwen2.5-coder-0.5b",
    row: Row = None,
    json: Json = False,
) -> None:
    """Runs `make run`, then `make test`, in a clean clone with an empty HOME."""
    if path is not None:
        from deepwell_bench.suites.repository.learning_path import bench_learning_path

        chosen = path
        measure(
            "newcomer",
            row,
            json,
            lambda report: bench_learning_path(report, python=python, language=chosen),
        )
        return
    if hour:
        from deepwell_bench.suites.repository.first_hour import bench_first_hour

        widths = (60, 120) if columns is None else (columns,)
        measure("newcomer", row, json, lambda report: bench_first_hour(report, python=python, widths=widths))
        return
    from deepwell_bench.suites.repository.suites import bench_chinese, bench_newcomer

    if chinese:
        measure("newcomer", row, json, lambda report: bench_chinese(report, python=python, model=model))
        return
    measure("newcomer", row, json, lambda report: bench_newcomer(report, python=python))


def ci(row: Row = None, json: Json = False) -> None:
    """Runs `.ci/run` in a clean clone, and tells how long its tests and the whole took."""
    from deepwell_bench.suites.repository.suites import bench_ci

    measure("ci", row, json, bench_ci)


def fresh_machine(
    complete: Annotated[
        bool,
        typer.Option("--complete", help="Install every program first without which tests are skipped."),
    ] = False,
    times: Annotated[int, typer.Option(min=1, help="Number of runs, each with a new clone and home.")] = 1,
    row: Row = None,
    json: Json = False,
) -> None:
    """Runs `make test` in a Debian that has nothing but what `make run` asks for. Needs root and debootstrap."""
    from deepwell_bench.suites.repository.fresh_machine import bench_fresh_machine

    measure(
        "fresh-machine", row, json, lambda report: bench_fresh_machine(report, complete=complete, times=times)
    )


def faults(
    restarts: Annotated[
        int, typer.Option(min=1, help="Number of restarts of the engine in the test of leaks.")
    ] = 100,
    row: Row = None,
    json: Json = False,
) -> None:
    """Runs the fault tests: kills and stops of every process, slow and vanished clients, what storage can do."""
    from deepwell_bench.suites.repository.suites import bench_faults

    measure("faults", row, json, lambda report: bench_faults(report, restarts=restarts))


def repository_tests(
    paths: Annotated[list[str], typer.Argument(help="Files, folders or ids of tests, as for pytest.")],
    row: Row = None,
    json: Json = False,
) -> None:
    """Runs tests of the repository, and counts those that passed, failed and were skipped."""
    from deepwell_bench.suites.repository.suites import bench_tests

    measure("tests", row, json, lambda report: bench_tests(report, paths))


def unchanged(
    against: Against = BASELINE,
    part: Annotated[
        list[str] | None,
        typer.Option(help="Part to compare: golden, tests, openapi or stored; repeatable. Unset: all."),
    ] = None,
    model: Model = None,
    row: Row = None,
    json: Json = False,
) -> None:
    """Counts what an earlier commit promised and this checkout no longer keeps: golden data, tests, OpenAPI, stored data."""
    from deepwell_bench.suites.repository.unchanged import PARTS, bench_unchanged

    if unknown := set(part or ()) - set(PARTS):
        raise typer.BadParameter(f"{', '.join(sorted(unknown))} is none of {', '.join(PARTS)}")
    measure(
        "unchanged",
        row,
        json,
        lambda report: bench_unchanged(report, model_path(model), against=against, parts=part or ()),
    )


def regression(
    against: Against = BASELINE,
    pairs: Annotated[int, typer.Option(min=1, help="Number of paired runs.")] = 20,
    task: Annotated[
        list[str] | None,
        typer.Option(
            help="Task to time: decode_int8, decode_int4, prefill, batch16, added_latency_ms, image, document or sound; "
            "repeatable. Unset: all."
        ),
    ] = None,
    model: Model = None,
    threads: Threads = None,
    row: Row = None,
    json: Json = False,
) -> None:
    """Compares speed with an earlier commit's, in paired runs: decode, prefill, batch, added latency, and media."""
    from deepwell_bench.suites.repository.regression import TASKS, bench_regression

    if unknown := set(task or ()) - set(TASKS):
        raise typer.BadParameter(f"{', '.join(sorted(unknown))} is none of {', '.join(TASKS)}")
    measure(
        "regression",
        row,
        json,
        lambda report: bench_regression(
            report,
            model_path(model),
            against=against,
            threads=usable_threads(threads),
            pairs=pairs,
            tasks=task or (),
        ),
    )


def wheel(
    python: Annotated[
        list[str] | None,
        typer.Option(help="Version of Python to install on; repeatable. Unset: 3.11 and 3.13."),
    ] = None,
    model: Annotated[
        str, typer.Option("--model", "-m", help="Model to serve, by its name in the store.")
    ] = "smollm2",
    row: Row = None,
    json: Json = False,
) -> None:
    """Builds the wheels, installs them where no compiler is, serves a model, and compares an answer with the source build's."""
    from deepwell_bench.suites.repository.wheel import bench_wheel

    versions = python or ["3.11", "3.13"]
    measure("wheel", row, json, lambda report: bench_wheel(report, model=model, pythons=versions))
