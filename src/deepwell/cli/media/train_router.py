"""`deepwell media train router`: trains the classifier that decides what requests ask for."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from deepwell.cli.options import ModelsDir
from deepwell.cli.output import JsonFlag, console, reported_errors, write_json
from deepwell.cli.progress import counted

__all__ = ["train_router"]


def train_router(
    data: Annotated[
        Path,
        typer.Argument(
            metavar="DATA",
            help="Labelled requests: JSON lines with text, intents, and attached where needed.",
        ),
    ] = Path("bench/data/requests/train.jsonl"),
    out: Annotated[Path, typer.Option(metavar="FILE", help="File that gets the weights.")] = Path(
        "router.safetensors"
    ),
    folds: Annotated[
        int, typer.Option(min=0, max=20, help="Parts of the cross-validation; 0: no cross-validation.")
    ] = 6,
    models_dir: ModelsDir = None,
    json: JsonFlag = False,
) -> None:
    """Train the router on labelled requests. It needs e5-small-q4, and no torch."""
    with reported_errors(as_json=json):
        from deepwell.llm import LLM
        from deepwell.media.router.classifier import RouterFile
        from deepwell.media.router.features import encoded_text
        from deepwell.media.router.route import ENCODER
        from deepwell.media.router.training import cross_validated, read_labelled, train_router
        from deepwell.settings import Settings

        requests = read_labelled(data)
        with LLM(ENCODER, models_dir=Settings.load(models_dir=models_dir).models_dir) as encoder:
            vectors = encoder.embed([encoded_text(one.text) for one in requests])
        report: dict[str, Any] = {"requests": len(requests), "weights": str(out)}
        if folds > 1:
            wanted = [one.wanted() for one in requests]
            several = [place for place, one in enumerate(wanted) if len(one) > 1]
            for name, read in (("full", vectors), ("alone", None)):
                answers = cross_validated(requests, read, folds=folds)
                right = [answer == one for answer, one in zip(answers, wanted, strict=True)]
                report[name] = {
                    "accuracy": round(sum(right) / len(right), 4),
                    "several": round(sum(right[place] for place in several) / max(1, len(several)), 4),
                }
        with counted("steps", shown=not json) as update:
            full = train_router(requests, vectors, update)
            alone = train_router(requests, None, update)
        RouterFile(full, alone).write(out)
        if json:
            write_json(report)
            return
        for name, value in report.items():
            console().print(f"{name}: {value}", soft_wrap=True, markup=False)
