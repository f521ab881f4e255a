"""Flags that several verbs share. `None` means not given: the file, the environment or the default decides."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = [
    "TEMPERATURE",
    "Context",
    "Host",
    "Init",
    "KvDtype",
    "KvTokens",
    "ModelOption",
    "ModelsDir",
    "Port",
    "Precision",
    "SamplingDefaultsOption",
    "Speculation",
    "Threads",
]

# The terminal's own default. The API keeps OpenAI's 1, at which a small model rambles to the end of its context.
TEMPERATURE = 0.3

_ENGINE = "Model and engine"
_SERVER = "Server"

ModelOption = Annotated[str | None, typer.Option("--model", "-m", help="A name in the store, or a path.")]
Init = Annotated[
    bool,
    typer.Option(
        "--init",
        help="Accept the database as it is now, where one with keys or data was lost or is an older copy.",
    ),
]
Host = Annotated[
    str | None,
    typer.Option(help="Address to bind; others than loopback need API keys.", rich_help_panel=_SERVER),
]
Port = Annotated[int | None, typer.Option(help="Port to bind; 0 takes a free one.", rich_help_panel=_SERVER)]
Precision = Annotated[
    str | None,
    typer.Option(
        help="Weights in memory: auto, int8, int4 (8-bit head), int4-full, bf16, fp16 or fp32.",
        rich_help_panel=_ENGINE,
    ),
]
Context = Annotated[int | None, typer.Option(help="Tokens a sequence may hold.", rich_help_panel=_ENGINE)]
KvDtype = Annotated[
    str | None,
    typer.Option(
        help="Keys and values in the cache: bf16, int8 (half the memory, some quality) or fp32.",
        rich_help_panel=_ENGINE,
    ),
]
KvTokens = Annotated[
    int | None, typer.Option(help="Tokens the whole KV cache holds.", rich_help_panel=_ENGINE)
]
Threads = Annotated[
    int | None,
    typer.Option(help="Compute threads; unset: the cores this process may use.", rich_help_panel=_ENGINE),
]
Speculation = Annotated[
    str | None,
    typer.Option(
        help="Draft tokens from the text so far where that is faster: auto or off; answers do not change.",
        rich_help_panel=_ENGINE,
    ),
]
SamplingDefaultsOption = Annotated[
    str | None,
    typer.Option(
        help="Sampling parameters that a request leaves out: model (as its publisher declares), or off (OpenAI's).",
        rich_help_panel=_ENGINE,
    ),
]
ModelsDir = Annotated[Path | None, typer.Option(help="The model store.", rich_help_panel=_ENGINE)]
