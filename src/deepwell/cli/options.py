"""Flags that several verbs share. `None` means not given: the file, the environment or the default decides."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = [
    "TEMPERATURE",
    "AllowedHosts",
    "ApiKeyOption",
    "Context",
    "CorsOrigins",
    "Host",
    "Init",
    "KvDtype",
    "KvTokens",
    "ModelOption",
    "ModelsDir",
    "Port",
    "Precision",
    "SamplingDefaultsOption",
    "ServerPort",
    "Speculation",
    "Threads",
    "Url",
    "known_models",
    "stored_models",
]

# The terminal's own default. The API keeps OpenAI's 1, at which a small model rambles to the end of its context.
TEMPERATURE = 0.3

_ENGINE = "Model and engine"
_SERVER = "Server"


def stored_models(incomplete: str) -> list[str]:
    """Returns the names in the store that begin so, for the shell's completion."""
    from deepwell.errors import DeepwellError
    from deepwell.settings import Settings

    try:
        root = Settings.load().models_dir
        names = sorted(path.parent.name for path in root.glob("*/manifest.json"))
    except (DeepwellError, OSError):  # a completion has nowhere to say what is wrong
        return []
    return [name for name in names if name.startswith(incomplete)]


def known_models(incomplete: str) -> list[str]:
    """Returns the names in the catalog that begin so, for the shell's completion."""
    from deepwell.models.store.catalog import shipped_catalog

    return [name for name in shipped_catalog() if name.startswith(incomplete)]


ModelOption = Annotated[
    str | None,
    typer.Option("--model", "-m", help="A name in the store, or a path.", autocompletion=stored_models),
]
Url = Annotated[
    str | None,
    typer.Option(
        help="A server to talk to, such as http://10.0.0.5:8000; unset: the one on this machine.",
        rich_help_panel=_SERVER,
    ),
]
ServerPort = Annotated[
    int | None, typer.Option(help="Port of the server on this machine; unset: 8000.", rich_help_panel=_SERVER)
]
ApiKeyOption = Annotated[
    str | None,
    typer.Option(
        help="The key that the server asks for; DEEPWELL_API_KEY keeps it out of the list of processes.",
        rich_help_panel=_SERVER,
    ),
]
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
AllowedHosts = Annotated[
    list[str] | None,
    typer.Option(
        help="A name that clients call the server by, besides its own address; repeatable.",
        rich_help_panel=_SERVER,
    ),
]
CorsOrigins = Annotated[
    list[str] | None,
    typer.Option(
        help="An origin whose web pages may call the server, such as https://app.example.com; repeatable.",
        rich_help_panel=_SERVER,
    ),
]
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
