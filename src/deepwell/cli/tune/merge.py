"""`deepwell tune merge`: an adapter and its base as one model."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from deepwell.cli.options import stored_models
from deepwell.cli.output import JsonFlag, console, reported_errors, typed_model, write_json
from deepwell.messages import say

__all__ = ["merge"]


def merge(
    adapter: Annotated[
        Path, typer.Argument(help="Folder of an adapter in peft's format.", metavar="ADAPTER")
    ],
    output: Annotated[Path, typer.Option(help="Folder for the merged model; it must not exist.")],
    model: Annotated[
        str | None,
        typer.Option(
            help="Model that the adapter was trained on; unset: the one its deepwell.json names.",
            autocompletion=stored_models,
        ),
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Merge an adapter into its base in float32, and print the largest difference of a logit to the adapter served apart."""
    with reported_errors(as_json=json):
        from deepwell.errors import DeepwellError, InvalidRequest
        from deepwell.models.store.store import ModelStore
        from deepwell.settings import Settings
        from deepwell.tuning.train.artefact import read_record
        from deepwell.tuning.train.merge import MAX_DIFFERENCE, merge_adapter

        if model is None:
            record = read_record(adapter) or {}
            config = record.get("config")
            model = config.get("model") if isinstance(config, dict) else None
            if not isinstance(model, str):
                raise InvalidRequest.of("merge_no_base", adapter=str(adapter))
        path = ModelStore(Settings.load().models_dir).resolve(model).path
        err = console(stderr=True)
        with err.status(say("merge_working")) if err.is_terminal and not json else nullcontext():
            merged = merge_adapter(path, adapter, output)
        if merged.difference is not None and merged.difference > MAX_DIFFERENCE:
            raise DeepwellError.of(
                "merge_differs", difference=f"{merged.difference:.1e}", most=f"{MAX_DIFFERENCE:.0e}"
            )
        if json:
            write_json(
                {
                    "folder": str(merged.folder),
                    "matrices": merged.matrices,
                    "largest_logit_difference": merged.difference,
                }
            )
            return
        out = console()
        out.print(say("merge_done", folder=str(merged.folder), matrices=merged.matrices), soft_wrap=True)
        if merged.difference is not None:
            out.print(say("merge_difference", difference=f"{merged.difference:.1e}"), soft_wrap=True)
        out.print(say("tune_serve", command=f"deepwell serve {typed_model(merged.folder)}"), soft_wrap=True)
