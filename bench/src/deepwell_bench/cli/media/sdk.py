"""Verbs of `deepwell bench` on recordings, speech and images through the official SDK."""

from __future__ import annotations

from typing import Annotated

import typer

from deepwell_bench.cli.options import Json, Row, measure

__all__ = ["media_sdk"]


def media_sdk(
    speech: Annotated[str, typer.Option(help="Speech model that the calls name.")] = "kokoro",
    recognition: Annotated[
        str, typer.Option(help="Recognition model that transcriptions name.")
    ] = "whisper-tiny.en",
    translation: Annotated[
        str,
        typer.Option(
            help="Multilingual recognition model that translations name."
            " `deepwell pull --catalog bench/assets.toml whisper-base-f16` brings one without a hub."
        ),
    ] = "whisper-base-f16",
    image: Annotated[str, typer.Option(help="Model that draws the images of the calls.")] = "deepwell-draw",
    row: Row = None,
    json: Json = False,
) -> None:
    """Calls every method of `client.audio` and `client.images` of the OpenAI SDK, with strict validation of all answers."""
    from deepwell_bench.harness.assets import smollm2
    from deepwell_bench.suites.media.sdk import bench_media_sdk
    from deepwell_bench.workloads.media.sdk_tour import Models

    models = Models(speech, recognition, translation, image)
    measure("media_sdk", row, json, lambda report: bench_media_sdk(report, smollm2(), models))
