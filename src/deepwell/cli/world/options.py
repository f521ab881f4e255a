"""Options that the actions of `deepwell world` share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

__all__ = ["EnvironmentArgument", "Futures", "Horizon", "ModelFile", "World"]

World = Literal["cart-pole", "grid", "inventory"]
"""The environments, as `deepwell.agents.world.EnvironmentName` has them; numpy need not be loaded for help."""

EnvironmentArgument = Annotated[
    World,
    typer.Argument(metavar="ENVIRONMENT", help="Name of the environment: cart-pole, grid or inventory."),
]
ModelFile = Annotated[
    Path | None,
    typer.Option(
        "--model",
        metavar="PATH",
        help="Model to use: a file, or the folder of a run; left out: the one that comes with Deepwell.",
    ),
]
Futures = Annotated[int, typer.Option(min=1, max=4096, help="Imagined futures of each action.")]
Horizon = Annotated[int, typer.Option(min=1, max=500, help="Steps of each imagined future.")]
