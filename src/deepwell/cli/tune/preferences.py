"""Options and the course of the verbs that train by preferences."""

from __future__ import annotations

import json as jsons
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deepwell.cli.options import stored_models
from deepwell.cli.output import console
from deepwell.cli.tune.running import configured, print_end, trained
from deepwell.messages import say

if TYPE_CHECKING:
    from deepwell.tuning.align.config import PreferenceConfig

__all__ = ["Answers", "ConfigFile", "Held", "Model", "Output", "Preferences", "Set", "Steps", "align"]

ConfigFile = Annotated[
    Path | None,
    typer.Argument(help="YAML or JSON file of a run; unset: the options alone.", metavar="CONFIG"),
]
Model = Annotated[
    str | None,
    typer.Option(
        help="Model to train: a name in the store, or a path; unset: the one of CONFIG, else smollm2.",
        autocompletion=stored_models,
    ),
]
Preferences = Annotated[
    list[Path] | None,
    typer.Option(
        help="File of prompts with a preferred and a rejected answer to train on; repeatable.", metavar="FILE"
    ),
]
Answers = Annotated[
    list[Path] | None,
    typer.Option(
        help="File of answers with a label, true for a good one, to train on; repeatable.", metavar="FILE"
    ),
]
Held = Annotated[
    str | None,
    typer.Option(
        help="File of held-out data in the same format, or the share of the prompts to hold out, such as 0.1.",
        metavar="FILE|SHARE",
    ),
]
Output = Annotated[
    Path | None,
    typer.Option(
        help="Folder of the run; a run that was stopped there continues. Unset: runs/ and the name of the data."
    ),
]
Steps = Annotated[
    int | None,
    typer.Option(
        min=1, help="Optimiser steps; unset: those of train.epochs, which is 3 passes over the data."
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="Value of any key of the configuration, such as train.seed=1; repeatable.",
        metavar="KEY=VALUE",
    ),
]


def align(
    kind: type[PreferenceConfig],
    path: Path | None,
    given: Mapping[str, Any],
    steps: int | None,
    assignments: Sequence[str],
    *,
    json: bool,
) -> None:
    """Runs a training by preferences, and prints its held-out loss and the command that serves its adapter.

    Raises:
        DeepwellError: the configuration cannot be used, or the worker failed.
    """
    from deepwell.tuning.align.worker import command

    run = configured(kind, path, given, steps, assignments)
    artefact = trained(run, command(kind.algorithm, str(run.output)), json=json)
    if json:
        return
    metrics = jsons.loads((artefact / "deepwell.json").read_text(encoding="utf-8"))["metrics"]
    before, after = metrics["held_out_loss_before"], metrics["held_out_loss"]
    if before is not None and after is not None:
        console().print(
            say("tune_aligned", before=f"{before:.3f}", after=f"{after:.3f}", step=metrics["step"]),
            soft_wrap=True,
        )
    print_end(run, artefact)
