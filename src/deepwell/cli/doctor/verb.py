"""`deepwell doctor`: what this installation can do here, what is missing, and the command that brings it."""

from __future__ import annotations

from typing import Annotated

import typer

from deepwell.cli.options import Context, KvDtype, KvTokens, ModelOption, ModelsDir, Precision, Threads
from deepwell.cli.output import JsonFlag, reported_errors, write_json
from deepwell.cli.usage import Verbs

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the verb, and under it those that look at outputs and at several devices."""
    from deepwell.cli.doctor.devices import devices
    from deepwell.cli.doctor.sampling import sampling

    group = typer.Typer(
        cls=Verbs, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]}
    )
    group.callback()(doctor)
    group.command()(sampling)
    group.command()(devices)
    app.add_typer(group, name="doctor")


def doctor(
    context_: typer.Context,
    model: ModelOption = None,
    port: Annotated[
        int | None,
        typer.Option(help="Port to check, for a running server or for one to start; unset: 8000."),
    ] = None,
    precision: Precision = None,
    context: Context = None,
    kv_dtype: KvDtype = None,
    kv_tokens: KvTokens = None,
    threads: Threads = None,
    models_dir: ModelsDir = None,
    fix: Annotated[
        bool,
        typer.Option("--fix", help="Mend those problems whose mending can lose nothing; say what was done."),
    ] = False,
    json: JsonFlag = False,
) -> None:
    """Show kernels, memory plan, port, disks, database and settings; name what must be fixed and how, with exit code 1."""
    if context_.invoked_subcommand is not None:
        return
    with reported_errors(as_json=json):
        from deepwell.settings import Settings

        settings = Settings.load(
            model=model,
            port=port,
            precision=precision,
            context=context,
            kv_dtype=kv_dtype,
            kv_tokens=kv_tokens,
            threads=threads,
            models_dir=models_dir,
        )
        from deepwell.cli.doctor.printing import print_report
        from deepwell.cli.doctor.report import examine

        report, findings = examine(settings)
        if fix and (mends := [one.mend for one in findings if one.mend is not None]):
            done = [mend() for mend in mends]
            report, findings = examine(settings)
            report["mended"] = done
        if json:
            write_json(report)
        else:
            print_report(report, findings)
    if report["problems"]:
        raise typer.Exit(1)
