"""`deepwell tune sft`: supervised fine-tuning in a process of its own, then what it changed on the engine that serves."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deepwell.cli.options import stored_models
from deepwell.cli.output import JsonFlag, console, reported_errors, write_json
from deepwell.cli.tune.running import configured, print_end, trained
from deepwell.messages import say

if TYPE_CHECKING:
    from deepwell.tuning.train.config import TuneConfig

__all__ = ["sft"]


def sft(
    config: Annotated[
        Path | None,
        typer.Argument(help="YAML or JSON file of a run; unset: the options alone.", metavar="CONFIG"),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="Model to train: a name in the store, or a path; unset: the one of CONFIG, else smollm2.",
            autocompletion=stored_models,
        ),
    ] = None,
    data: Annotated[
        list[Path] | None,
        typer.Option(help="File of conversations to train on; repeatable.", metavar="FILE"),
    ] = None,
    validation: Annotated[
        str | None,
        typer.Option(
            help="File of held-out conversations, or the share of the data to hold out, such as 0.1.",
            metavar="FILE|SHARE",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the run; a run that was stopped there continues. Unset: runs/ and the name of the data."
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            min=1, help="Optimiser steps; unset: those of train.epochs, which is 3 passes over the data."
        ),
    ] = None,
    processes: Annotated[
        int,
        typer.Option(
            min=1,
            help="Number of processes on this machine that train together; they divide the data unless train.strategy "
            "is fsdp2 or tensor.",
        ),
    ] = 1,
    set: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="Value of any key of the configuration, such as train.seed=1; repeatable.",
            metavar="KEY=VALUE",
        ),
    ] = None,
    compare: Annotated[
        bool, typer.Option(help="Whether to compare the result with its base on held-out conversations.")
    ] = True,
    json: JsonFlag = False,
) -> None:
    """Train an adapter, or every weight, on conversations; print what it changed and the command that serves it."""
    with reported_errors(as_json=json):
        from deepwell.tuning.train.config import TuneConfig
        from deepwell.tuning.train.distributed.launch import command

        given = {"model": model, "data": data, "validation": validation, "output": output}
        run = configured(TuneConfig, config, given, steps, set or [])
        if processes > 1 and run.train.strategy == "single":
            run = run.model_copy(update={"train": run.train.model_copy(update={"strategy": "ddp"})})
        artefact = trained(run, command(str(run.output), processes), json=json)
        if compare:
            _compare(run, artefact, json=json)
        if not json:
            print_end(run, artefact)


def _compare(run: TuneConfig, artefact: Path, *, json: bool) -> None:
    from deepwell.dialogue.text import Codec
    from deepwell.models.store.store import ModelStore
    from deepwell.settings import Settings
    from deepwell.tuning.train.dataset import load_dataset
    from deepwell.tuning.train.delta import compare as measured

    settings = run.train
    most = 1024 if settings.max_tokens == "auto" else settings.max_tokens
    path = ModelStore(Settings.load().models_dir).resolve(run.model).path
    err = console(stderr=True)
    with err.status(say("tune_comparing")) if err.is_terminal and not json else nullcontext():
        held = load_dataset(run, Codec.load(path), most)
        delta = measured(run.model, artefact, held.held_out, held.held_out_records) if held.held_out else None
    if delta is None:
        if not json:
            console().print(say("tune_nothing_held_out"))
        return
    if json:
        write_json({"event": "compared", **delta.to_json()})
        return
    from rich.table import Table

    out = console()
    title = say("tune_table", scored=delta.scored, answered=delta.answered, precision=delta.precision)
    out.print(title, style="italic", soft_wrap=True)  # a title of the table would wrap at the table's width
    table = Table()
    for column in ("", say("tune_base"), say("tune_tuned"), say("tune_change")):
        table.add_column(column, justify="left" if not column else "right")
    for name, shape in (
        ("loss", "{:.3f}"),
        ("exact", "{:.1%}"),
        ("ended", "{:.1%}"),
        ("answer_tokens", "{:.1f}"),
    ):
        before, after = getattr(delta.base, name), getattr(delta.tuned, name)
        signed = shape.replace(":", ":+")
        table.add_row(
            say(f"tune_row_{name}"), shape.format(before), shape.format(after), signed.format(after - before)
        )
    out.print(table)
