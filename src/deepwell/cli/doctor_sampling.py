"""`deepwell doctor sampling TRANSCRIPT`: what is wrong with an unstable output, and which setting to move."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deepwell.cli.options import ModelOption, ModelsDir
from deepwell.cli.output import JsonFlag, console, reported_errors, write_json

__all__ = ["sampling"]


def sampling(
    transcript: Annotated[
        Path,
        typer.Argument(
            help="Output to examine: a text file, the JSON of a chat completion, or - for standard input."
        ),
    ],
    model: ModelOption = None,
    models_dir: ModelsDir = None,
    temperature: Annotated[
        float, typer.Option(min=0, max=2, help="Temperature that the output was drawn with.")
    ] = 1.0,
    top_p: Annotated[float, typer.Option(min=0, max=1, help="Top-p that the output was drawn with.")] = 1.0,
    repetition_penalty: Annotated[
        float, typer.Option(min=0.01, help="Repetition penalty that the output was drawn with.")
    ] = 1.0,
    json: JsonFlag = False,
) -> None:
    """Measure how repetitive and how uncertain an output is, and report which sampling parameter to change."""
    with reported_errors(as_json=json):
        from deepwell.cli.transcripts import read_transcript
        from deepwell.models.store.store import ModelStore
        from deepwell.models.text.output_health import Settings as Drawn
        from deepwell.models.text.output_health import advise, measure
        from deepwell.models.text.tokenizer import Tokenizer
        from deepwell.settings import Settings

        text, logprobs, finish = read_transcript(transcript)
        settings = Settings.load(model=model, models_dir=models_dir)
        path = ModelStore(settings.models_dir).resolve(settings.model).path
        health = measure(Tokenizer.load(path).encode(text.strip()), logprobs, finish)
        advice = advise(health, Drawn(temperature, top_p, repetition_penalty))
    if json:
        write_json({"measured": health.shown(), "advice": [one.shown() for one in advice]})
        return
    out = console()
    for name, value in health.shown().items():
        out.print(f"{name:<22} {value}", highlight=False)
    out.print()
    for one in advice:
        out.print(f"{one.finding}", style="bold", soft_wrap=True)
        out.print(f"  {one.move}", soft_wrap=True)
