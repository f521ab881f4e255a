"""`deepwell media`: recordings and text."""

from __future__ import annotations

import typer

from deepwell.cli.media import speak, transcribe
from deepwell.cli.usage import Verbs

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the verb and its actions."""
    media = typer.Typer(
        cls=Verbs,
        no_args_is_help=True,
        help="Turn recordings into text, and text into speech, without a server.",
    )
    media.command("transcribe")(transcribe.transcribe)
    media.command("speak")(speak.speak)
    media.command("voices")(speak.voices)
    app.add_typer(media, name="media")
