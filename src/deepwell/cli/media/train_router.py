"""`deepwell media train router`: trains the classifier that decides what requests ask for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deepwell.cli.options import ModelsDir
from deepwell.cli.output import JsonFlag, console, reported_errors, write_json
from deepwell.cli.progress import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deepwell.media.router.classifier import Intent
    from deepwell.media.router.labelled import Labelled

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
    check: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE", help="Labelled requests that the training leaves out, to be told right or wrong."
        ),
    ] = None,
    models_dir: ModelsDir = None,
    json: JsonFlag = False,
) -> None:
    """Train the router on labelled requests. It needs e5-small-q4, and no torch."""
    with reported_errors(as_json=json):
        from deepwell.llm import LLM
        from deepwell.media.router.classifier import RouterFile
        from deepwell.media.router.features import encoded_text
        from deepwell.media.router.joining import joined
        from deepwell.media.router.labelled import read_labelled
        from deepwell.media.router.route import ENCODER, Router
        from deepwell.media.router.training import cross_validated, train_router
        from deepwell.settings import Settings

        requests, checks = read_labelled(data), {path: read_labelled(path) for path in check or ()}
        joins = joined(requests)
        texts = [one.text for one in (*requests, *(join.request for join in joins))]
        with LLM(ENCODER, models_dir=Settings.load(models_dir=models_dir).models_dir) as encoder:
            vectors = encoder.embed([encoded_text(text) for text in texts])
            known = {path: encoder.embed([encoded_text(one.text) for one in checks[path]]) for path in checks}
        report: dict[str, Any] = {"requests": len(requests), "joins": len(joins), "weights": str(out)}
        if folds > 1:
            for name, read in (("full", vectors), ("alone", None)):
                answers = cross_validated(requests, read, joins, folds=folds)
                report[name] = _right(requests, answers)
        with counted("steps", shown=not json) as update:
            full = train_router(requests, vectors, update, joins)
            alone = train_router(requests, None, update, joins)
        RouterFile(full, alone).write(out)
        router = Router(RouterFile.read(out))
        for path, those in checks.items():
            pairs = list(zip(those, known[path], strict=True))
            answers = [router.route(one.text, one.attached, vector).intents for one, vector in pairs]
            report[path.stem] = {"requests": len(those), **_right(those, answers)}
            answers = [router.route(one.text, one.attached).intents for one in those]
            report[f"{path.stem}, alone"] = _right(those, answers)
        if json:
            write_json(report)
            return
        for name, value in report.items():
            console().print(f"{name}: {value}", soft_wrap=True, markup=False)


def _right(requests: Sequence[Labelled], answers: Sequence[tuple[Intent, ...]]) -> dict[str, float]:
    """Returns the shares of right answers: of all, of requests for several things, and of each language."""
    rows = [(one, answer == one.wanted()) for one, answer in zip(requests, answers, strict=True)]
    groups = {
        "accuracy": [right for _, right in rows],
        "several": [right for one, right in rows if len(one.intents) > 1],
    }
    for language in sorted({one.language for one in requests if one.language}):
        groups[language] = [right for one, right in rows if one.language == language]
    return {name: round(sum(group) / max(1, len(group)), 4) for name, group in groups.items()}
