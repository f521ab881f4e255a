"""`deepwell media`: recordings and text."""

from __future__ import annotations

import typer

from deepwell.cli.media import speak, transcribe
from deepwell.cli.media.train_space import train_space
from deepwell.cli.usage import Verbs

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the verb and its actions."""
    media = typer.Typer(
        cls=Verbs,
        no_args_is_help=True,
        help="Turn recordings into text, and text into speech, without a server; train models of images and sound.",
    )
    media.command("transcribe")(transcribe.transcribe)
    media.command("speak")(speak.speak)
    media.command("voices")(speak.voices)
    train = typer.Typer(cls=Verbs, no_args_is_help=True, help="Train models of images and sound.")
    train.command("space")(train_space)
    media.add_typer(train, name="train")
    app.add_typer(media, name="media")
