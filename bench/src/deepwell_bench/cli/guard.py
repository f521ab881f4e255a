"""Verbs of `deepwell guard` that train its classifiers: `train` and `train-moderation`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deepwell.cli.output import JsonFlag as Json
from deepwell.cli.output import console, reported_errors, write_json

__all__ = ["train", "train_moderation"]

Output = Annotated[
    Path,
    typer.Argument(
        metavar="FOLDER", help="Folder for weights.safetensors and card.toml; files there are replaced."
    ),
]


def train(
    output: Output,
    json: Json = False,
) -> None:
    """Train the classifier on pinned packages and written texts, and write its weights with a card of their origin."""
    with reported_errors(as_json=json):
        from deepwell.safety.classifier.weights import write_weights
        from deepwell_bench.workloads.safety.classifier.card import written_card
        from deepwell_bench.workloads.safety.classifier.fitted import fit

        out = console(stderr=json)
        trained = fit(said=out.print)
        output.mkdir(parents=True, exist_ok=True)
        write_weights(trained.weights, output / "weights.safetensors")
        card = written_card(trained, output / "weights.safetensors")
        (output / "card.toml").write_text(card, encoding="utf-8")
        if json:
            write_json({"weights": str(output / "weights.safetensors"), "card": str(output / "card.toml")})
        else:
            out.print(f"wrote {output / 'weights.safetensors'} and {output / 'card.toml'}")


def train_moderation(
    output: Output,
    json: Json = False,
) -> None:
    """Train the moderation of answers on pinned packages, judge it, and write its weights with a card of their origin."""
    with reported_errors(as_json=json):
        from deepwell.safety.moderation.weights import write_weights
        from deepwell_bench.suites.safety.moderation import judgement
        from deepwell_bench.workloads.safety.moderation_fold import card, trained

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
