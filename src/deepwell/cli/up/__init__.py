"""`deepwell up`, `status` and `down`: the whole platform with one command."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deepwell.cli.options import (
    BatchSize,
    Gpus,
    Host,
    Init,
    Port,
    Precision,
    TensorParallel,
    stored_models,
)
from deepwell.cli.output import JsonFlag, console, reported_errors, write_json

if TYPE_CHECKING:
    from deepwell.cli.up.plan import Asked

__all__ = ["register"]

_PARTS = "Parts"
_ENGINE = "Model and engine"


def register(app: typer.Typer) -> None:
    """Add the three verbs."""
    from deepwell.cli.up.running import down, status

    app.command()(up)
    app.command()(status)
    app.command()(down)


ModelPath = Annotated[
    Path | None,
    typer.Option(
        help="Model file or folder, a folder with several, or a model store; an empty folder becomes one.",
        metavar="PATH",
        rich_help_panel=_ENGINE,
    ),
]
KnowledgeFolder = Annotated[
    Path | None,
    typer.Option(
        help="Folder of documents that becomes a knowledge base, is followed, and grounds every chat answer.",
        metavar="DIR",
    ),
]
PolicyOption = Annotated[
    str | None,
    typer.Option(
        help="Policy of the guard that reads requests and answers: open, standard, strict, cn-public, or a YAML file.",
        metavar="POLICY",
    ),
]
TensorBoardPort = Annotated[
    int,
    typer.Option(min=0, max=65535, help="Port of TensorBoard; 0 takes a free one.", rich_help_panel=_PARTS),
]
JupyterPort = Annotated[
    int,
    typer.Option(min=0, max=65535, help="Port of JupyterLab; 0 takes a free one.", rich_help_panel=_PARTS),
]


def up(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODEL]...",
            help="Models to serve, the main one first: names in the store or the catalog, sources, or paths; unset: smollm2.",
            autocompletion=stored_models,
        ),
    ] = None,
    model_path: ModelPath = None,
    precision: Precision = None,
    batch_size: BatchSize = None,
    tensor_parallel: TensorParallel = None,
    gpus: Gpus = None,
    knowledge: KnowledgeFolder = None,
    policy: PolicyOption = None,
    improve: Annotated[
        bool,
        typer.Option(
            "--improve", help="Tune the model from feedback; not available in this version, and refused."
        ),
    ] = False,
    host: Host = None,
    port: Port = None,
    tensorboard_port: TensorBoardPort = 6006,
    jupyter_port: JupyterPort = 8888,
    no_tensorboard: Annotated[
        bool, typer.Option("--no-tensorboard", help="Leave TensorBoard out.", rich_help_panel=_PARTS)
    ] = False,
    no_jupyter: Annotated[
        bool, typer.Option("--no-jupyter", help="Leave JupyterLab out.", rich_help_panel=_PARTS)
    ] = False,
    init: Init = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan, start nothing and fetch nothing.")
    ] = False,
    json: JsonFlag = False,
) -> None:
    """Start the whole platform: the API with the web console, TensorBoard and JupyterLab, until Ctrl-C.

    A model that is not here is pulled first. Parts whose extra is not installed are left out, with the command that brings
    them. In a container, all parts listen to other machines, and an API key is made at the first start.
    """
    with reported_errors(as_json=json):
        from deepwell.cli.up.plan import Asked

        asked = Asked(
            tuple(models or ()),
            model_path,
            precision,
            batch_size,
            tensor_parallel,
            gpus,
            knowledge,
            policy,
            improve,
            host,
            port,
            None if no_tensorboard else tensorboard_port,
            None if no_jupyter else jupyter_port,
        )
        if dry_run:
            _print_plan(asked, as_json=json)
        else:
            from deepwell.cli.up.running import run_platform

            run_platform(asked, init=init, as_json=json)


def _print_plan(asked: Asked, *, as_json: bool) -> None:
    from deepwell.cli.up.plan import make_plan

    plan = make_plan(asked)
    if as_json:
        write_json(plan.as_json())
        return
    for line in plan.lines():
        console().print(line, soft_wrap=True)
