"""`deepwell compress convert`: a dense model in DeepSeek-V3's shape, with latent attention, experts or both."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import typer

from deepwell.cli.compress.common import followed, need_torch, print_losses, print_next, texts_of
from deepwell.cli.options import stored_models
from deepwell.cli.output import JsonFlag, console, reported_errors, write_json
from deepwell.messages import say

__all__ = ["convert"]

_Cached = Annotated[
    int | None,
    typer.Option(
        min=16,
        help="Numbers that latent attention caches for a token and layer, a multiple of 8. Unset: 5/16 of the model's. "
        "As many as the model caches makes the conversion exact.",
    ),
]
_Sparsity = Annotated[
    float,
    typer.Option(
        min=0.0, max=0.75, help="Share of an MLP that a token leaves out with experts, such as 0.25."
    ),
]
_Experts = Annotated[
    int,
    typer.Option(min=4, max=256, help="Parts that an MLP is divided into, those for every token counted."),
]

_STEPS: Final = ("activations", "candidates", "experts", "recovery")


def convert(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="Model to convert: a dense Llama in the store, or a path.",
            autocompletion=stored_models,
        ),
    ],
    out: Annotated[
        Path, typer.Option(metavar="FOLDER", help="Folder for the converted model; it must not exist.")
    ],
    to: Annotated[
        Literal["mla", "moe", "deepseek-v3"],
        typer.Option(
            help="Parts to convert: mla gives it latent attention, moe mixtures of experts, deepseek-v3 both."
        ),
    ] = "mla",
    cached: _Cached = None,
    sparsity: _Sparsity = 0.25,
    experts: _Experts = 16,
    text: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="Text of the kind that the model will serve; repeatable. It chooses what stays and teaches the result. "
            "Unset: the pages of `deepwell learn`, in English and Chinese.",
        ),
    ] = None,
    recover: Annotated[
        Literal["distil", "none"],
        typer.Option(
            help="Recovery after the conversion: learn the model's predictions on the text, or none."
        ),
    ] = "distil",
    minutes: Annotated[
        float, typer.Option(min=0.05, max=1440, help="Minutes that the recovery takes, and no more.")
    ] = 20.0,
    json: JsonFlag = False,
) -> None:
    """Convert a dense Llama to DeepSeek-V3's shape: a smaller cache by latent attention, fewer products by experts.

    The folder loads as DeepseekV3ForCausalLM in transformers and in Deepwell. Needs the extra `tune`; a model of 135 million
    weights takes some five minutes, and the minutes of its recovery.
    """
    with reported_errors(as_json=json):
        texts = texts_of(text or [])
        need_torch()
        from deepwell.tuning.compress.training.conversion import convert as run
        from deepwell.tuning.compress.training.recover import Recovery

        begin = time.perf_counter()
        with followed(_STEPS, as_json=json) as told:
            card = run(
                model,
                out,
                to,
                texts=texts,
                cached=cached,
                sparsity=sparsity,
                experts=experts,
                recovery=Recovery(minutes) if recover == "distil" else None,
                say=told,
            )
        if json:
            seconds = round(time.perf_counter() - begin, 1)
            write_json({"event": "end", "folder": str(out), "seconds": seconds, **card})
        else:
            _show(card, out, model)


def _show(card: Mapping[str, Any], out: Path, donor: str) -> None:
    shape = card["shape"]
    lines: list[str] = []
    if card["to"] != "moe":  # which leaves the cache as large as it was
        less = 1 - shape["cached"] / card["base_cached"]
        latent, rotated = shape["kv_lora_rank"], shape["qk_rope_head_dim"]
        cached, whole = shape["cached"], card["base_cached"]
        lines += [
            say("compress_cached", cached=cached, donor=whole, less=less, latent=latent, rotated=rotated)
        ]
    if routed := shape["experts"]:
        shared, active = shape["shared_experts"], shape["experts_per_token"]
        computed = (shared + active) / (shared + routed)
        lines += [say("compress_mixture", shared=shared, active=active, routed=routed, computed=computed)]
    for line in (f"{out}: {lines[0]}", *lines[1:]):
        console().print(line, soft_wrap=True)
    print_losses(card, "converted")
    print_next(out, donor)
