"""`deepwell media route`: what a request asks for, and why."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from deepwell.cli.options import ModelsDir
from deepwell.cli.output import JsonFlag, console, reported_errors, write_json

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["route"]

Attachment = Literal["audio", "image"]


def route(
    text: Annotated[str, typer.Argument(metavar="TEXT", help="Request, in Chinese or English.")],
    attached: Annotated[
        Attachment | None,
        typer.Option(help="Kind of what is attached to the request."),
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Weights of the classifier; left out: those that come with Deepwell."
        ),
    ] = None,
    models_dir: ModelsDir = None,
    json: JsonFlag = False,
) -> None:
    """Tell whether a request asks for an answer in text, an image, speech, a transcription, or several of them."""
    with reported_errors(as_json=json):
        from deepwell.media.router.classifier import SHIPPED, RouterFile
        from deepwell.media.router.route import Router

        kinds = [attached] if attached else []
        router = Router(RouterFile.read(weights or SHIPPED))
        found = router.decided(text, kinds)
        if found is None:
            found = router.route(text, kinds, _vector(text, models_dir))
        begin = time.perf_counter()
        router.route(text, kinds)
        took = time.perf_counter() - begin
        reasons = [reason.said() for reason in found.reasons]
        if json:
            scores = {intent: round(score, 4) for intent, score in found.scores.items()}
            told = {"intents": list(found.intents), "scores": scores, "by": found.by, "reasons": reasons}
            write_json({**told, "ms_without_encoder": round(1000 * took, 3)})
            return
        console().print(", ".join(found.intents), soft_wrap=True, markup=False)
        for reason in reasons:
            console().print(f"  {reason}", soft_wrap=True, markup=False)


def _vector(text: str, models_dir: Path | None) -> NDArray[np.float32] | None:
    """Returns e5-small's vector of a request; None where the model is not in the store."""
    from deepwell.errors import ModelNotFound
    from deepwell.llm import LLM
    from deepwell.media.router.features import encoded_text
    from deepwell.media.router.route import ENCODER
    from deepwell.models.store.store import ModelStore
    from deepwell.settings import Settings

    try:
        path = ModelStore(Settings.load(models_dir=models_dir).models_dir).get(ENCODER).path
    except ModelNotFound:
        return None
    with LLM(path) as encoder:
        return encoder.embed(encoded_text(text))
