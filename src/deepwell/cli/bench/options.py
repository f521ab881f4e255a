"""Options that several verbs of `deepwell bench` share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from deepwell.cli.output import JsonFlag as Json

__all__ = [
    "FixedTokens",
    "Json",
    "Model",
    "Precision",
    "PromptTokens",
    "Rounds",
    "Threads",
    "Window",
    "known_precision",
    "model_path",
    "usable_threads",
]

Threads = Annotated[
    int | None, typer.Option(help="Number of compute threads; unset: the cores that this process may use.")
]
Model = Annotated[
    str | None,
    typer.Option(
        help="Model to measure: a name in the store, or a GGUF file; unset: smollm2 from the store."
    ),
]
Precision = Annotated[
    str, typer.Option(help="Format of the weights: int8, int4 (8-bit head), int4-full, bf16, fp16 or fp32.")
]
Rounds = Annotated[int, typer.Option(min=1, help="Number of interleaved rounds; the median counts.")]
PromptTokens = Annotated[int, typer.Option(min=1, help="Length of each prompt, in tokens.")]
FixedTokens = Annotated[int, typer.Option(min=2, help="Length of the fixed text, in tokens.")]
Window = Annotated[int, typer.Option(min=2, help="Context of the perplexity, in tokens.")]


def usable_threads(given: int | None) -> int:
    """Returns the number of threads asked for, or the cores this process may use; no more than the kernels take."""
    from deepwell.cli.bench.machine import available_cores
    from deepwell.engine.backends.native import MAX_THREADS

    return min(given or available_cores(), MAX_THREADS)


def model_path(given: str | None) -> Path:
    """Returns the file of a model in the store, or of smollm2.

    Raises:
        ModelNotFound: it has not been pulled.
    """
    from deepwell.models.store.store import ModelStore
    from deepwell.settings import Settings

    return ModelStore(Settings.load().models_dir).resolve(given or "smollm2").path


def known_precision(text: str) -> Any:
    """Returns the precision, if there is one of that name."""
    from deepwell.cli.bench.engine import PRECISIONS

    if text not in ("fp32", *PRECISIONS):
        raise typer.BadParameter(f"{text!r} is none of {', '.join(('fp32', *PRECISIONS))}")
    return text
