"""`deepwell media`: recordings, speech and images."""

from __future__ import annotations

import typer

from deepwell.cli.media import draw, route, speak, transcribe
from deepwell.cli.media.train_image import train_image
from deepwell.cli.media.train_router import train_router
from deepwell.cli.media.train_space import train_space
from deepwell.cli.usage import Verbs

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the verb and its actions."""
    media = typer.Typer(
        cls=Verbs,
        no_args_is_help=True,
        help="Turn recordings into text, and text into speech and images, without a server; train the models.",
    )
    media.command("transcribe")(transcribe.transcribe)
    media.command("speak")(speak.speak)
    media.command("voices")(speak.voices)
    media.command("draw")(draw.draw)
    media.command("route")(route.route)
    train = typer.Typer(
        cls=Verbs, no_args_is_help=True, help="Train models of images and sound, and the router."
    )
    train.command("image")(train_image)
    train.command("router")(train_router)
    train.command("space")(train_space)
    media.add_typer(train, name="train")
    app.add_typer(media, name="media")
