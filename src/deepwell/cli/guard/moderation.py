"""`deepwell guard train-moderation`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deepwell.cli.output import JsonFlag as Json
from deepwell.cli.output import console, reported_errors, write_json

__all__ = ["train_moderation"]


def train_moderation(
    output: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER", help="Folder for weights.safetensors and card.toml; files there are replaced."
        ),
    ],
    json: Json = False,
) -> None:
    """Train the moderation of answers on pinned packages, judge it, and write its weights with a card of their origin."""
    with reported_errors(as_json=json):
        from deepwell.bench.suites.safety.moderation import judgement
        from deepwell.bench.workloads.safety.moderation_fold import card, trained
        from deepwell.safety.moderation.weights import write_weights

        out = console(stderr=json)
        weights, left_out = trained(out.print)
        figures = judgement(left_out)
        output.mkdir(parents=True, exist_ok=True)
        path = output / "weights.safetensors"
        write_weights(weights, path)
        (output / "card.toml").write_text(card(path.read_bytes(), left_out, figures), encoding="utf-8")
        if json:
            write_json({"weights": str(path), "card": str(output / "card.toml"), **figures})
        else:
            out.print(f"wrote {path} and {output / 'card.toml'}: AUC {figures['auc']}")
