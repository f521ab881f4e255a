"""`deepwell compress convert`: a dense model in DeepSeek-V3's shape, with latent attention, experts or both."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import typer

from deepwell.cli.compress.pruning import closed, need_torch, texts_of
from deepwell.cli.options import stored_models
from deepwell.cli.output import JsonFlag, console, reported_errors, write_json
from deepwell.cli.progress import stepped

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

_STEPS: Final = {
    "activations": "reading the text",
    "candidates": "comparing splits of the cache",
    "experts": "dividing MLPs among experts",
    "recovery": "recovering",
}


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
        with stepped(_STEPS, shown=not json) as update:

            def say(step: str, done: float) -> None:
                update(step, done)
                if json:
                    write_json({"event": "progress", "step": step, "done": round(done, 3)})

            card = run(
                model,
                out,
                to,
                texts=texts,
                cached=cached,
                sparsity=sparsity,
                experts=experts,
                recovery=Recovery(minutes) if recover == "distil" else None,
                say=say,
            )
        if json:
            seconds = round(time.perf_counter() - begin, 1)
            write_json({"event": "end", "folder": str(out), "seconds": seconds, **card})
        else:
            _show(card, out)


def _show(card: Mapping[str, Any], out: Path) -> None:
    shape, line = card["shape"], console().print
    experts = f", {shape['experts_per_token']} of {shape['experts']} experts" if shape["experts"] else ""
    line(
        f"{out}: caches {shape['cached']} numbers a token and layer instead of {card['base_cached']} "
        f"({1 - shape['cached'] / card['base_cached']:.1%} less), a latent of {shape['kv_lora_rank']} and a rotated key of "
        f"{shape['qk_rope_head_dim']}{experts}",
        soft_wrap=True,
    )
    loss, donor, plain = card["loss"], card["loss_before"], card["recovery"].get("loss_before")
    recovered = f"{loss:.3f} now"
    if plain is not None:
        seen = card["recovery"]["tokens_seen"]
        recovered = (
            f"{plain:.3f} when converted, {loss:.3f} recovered on {seen:,} tokens{closed(donor, plain, loss)}"
        )
    line(f"loss: {donor:.3f} before, {recovered}", soft_wrap=True)
    line(
        f"the donor's likeliest token at {card['agreement']:.1%} of positions, divergence {card['divergence']:.3f}",
        soft_wrap=True,
    )
    line(f"try it: deepwell chat {out}", soft_wrap=True)
