"""Verbs of `deepwell bench` on pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deepwell_bench.cli.options import Json, Row, measure

__all__ = ["image_generation", "media_size"]


def image_generation(
    model: Annotated[
        Path | None, typer.Option(help="Folder of the network that draws; left out: that of the package.")
    ] = None,
    space: Annotated[
        Path | None, typer.Option(help="Folder of the heads of the space; left out: those of the package.")
    ] = None,
    picture: Annotated[
        Path | None,
        typer.Option(help="PNG that gets drawings, each below the nearest picture of the training."),
    ] = None,
    row: Row = None,
    json: Json = False,
) -> None:
    """Draws held-out prompts: how many are recognised, how fast, and how near to pictures of the training."""
    from deepwell.engine.machine import usable_cpus
    from deepwell.media.images.options import SHIPPED
    from deepwell.media.space.training.encoder import made_image_encoder
    from deepwell.media.space.weights import SHIPPED as HEADS
    from deepwell.media.space.weights import SpaceWeights
    from deepwell.settings import Settings
    from deepwell_bench.harness.assets import e5_small
    from deepwell_bench.suites.media.generation import Judge, bench_image_generation

    home = Settings.load().models_dir.parent
    measure(
        "image_generation",
        row,
        json,
        lambda report: bench_image_generation(
            report,
            model or SHIPPED,
            e5_small(),
            Judge(SpaceWeights.read(space or HEADS), made_image_encoder(home / "space"), usable_cpus()),
            picture=picture,
        ),
    )


def media_size(row: Row = None, json: Json = False) -> None:
    """Installs the extras for speech, images and character recognition into fresh environments, and weighs them."""
    from deepwell_bench.suites.media.size import bench_media_size

    measure("media_size", row, json, bench_media_size)
