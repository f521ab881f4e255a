"""Flags that several verbs share. `None` means not given: the file, the environment or the default decides."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

__all__ = [
    "TEMPERATURE",
    "AccessLog",
    "AdapterDir",
    "AllowedHosts",
    "ApiKeyOption",
    "BatchSize",
    "Context",
    "ContextPolicyOption",
    "CorsOrigins",
    "EmbeddingModel",
    "EngineOption",
    "Gpus",
    "Guard",
    "Host",
    "Improve",
    "Init",
    "KeepAlive",
    "Knowledge",
    "KvDtype",
    "KvTokens",
    "ModelOption",
    "ModelsDir",
    "ModelsOnDemand",
    "Port",
    "Precision",
    "ResponseCacheMb",
    "SamplingDefaultsOption",
    "SemanticCache",
    "ServerPort",
    "Speculation",
    "TensorParallel",
    "Threads",
    "Url",
    "Workers",
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


EngineOption = Annotated[
    str | None,
    typer.Option(
        "--engine",
        help="Engine of the main model: native, vllm (started here), or a server's URL, such as vllm=http://10.0.0.7:8000.",
        metavar="ENGINE",
        rich_help_panel=_ENGINE,
    ),
]
TensorParallel = Annotated[
    str | None,
    typer.Option(
        help="GPUs that vLLM splits each layer of the model over: auto or a number; more than 1 needs vLLM.",
        metavar="N",
        rich_help_panel=_ENGINE,
    ),
]
Gpus = Annotated[
    str | None,
    typer.Option(
        help="GPUs to use: all, or a number. vLLM takes them, where it is installed; Deepwell's own engine uses the CPU.",
        metavar="N",
        rich_help_panel=_ENGINE,
    ),
]
ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model", "-m", help="Model to use: a name in the store, or a path.", autocompletion=stored_models
    ),
]
Url = Annotated[
    str | None,
    typer.Option(
        help="Server to talk to, such as http://10.0.0.5:8000; unset: the one on this machine.",
        rich_help_panel=_SERVER,
    ),
]
ServerPort = Annotated[
    int | None,
    typer.Option(
        help="Port of the server to talk to, on this machine; unset: 8000.", rich_help_panel=_SERVER
    ),
]
ApiKeyOption = Annotated[
    str | None,
    typer.Option(
        help="API key to send; the variable DEEPWELL_API_KEY keeps it out of the list of processes.",
        rich_help_panel=_SERVER,
    ),
]
Init = Annotated[
    bool,
    typer.Option(
        "--init",
        help="Accept the database as it is now, although one with keys or data was lost or is an older copy.",
    ),
]
Host = Annotated[
    str | None,
    typer.Option(
        help="Address that the server binds; any other than loopback needs API keys. Unset: 127.0.0.1.",
        rich_help_panel=_SERVER,
    ),
]
Port = Annotated[
    int | None,
    typer.Option(
        help="Port that the server binds; 0 takes a free one; unset: 8000.", rich_help_panel=_SERVER
    ),
]
AllowedHosts = Annotated[
    list[str] | None,
    typer.Option(
        help="Host name that clients use for the server, besides its own address; repeatable.",
        rich_help_panel=_SERVER,
    ),
]
CorsOrigins = Annotated[
    list[str] | None,
    typer.Option(
        help="Origin whose web pages may call the server, such as https://app.example.com; repeatable.",
        rich_help_panel=_SERVER,
    ),
]
Knowledge = Annotated[
    str | None,
    typer.Option(
        help="Knowledge base whose passages ground every chat answer, with citations.",
        metavar="NAME",
        rich_help_panel=_SERVER,
    ),
]
Guard = Annotated[
    str | None,
    typer.Option(
        help="Policy of the guard that reads requests and answers: open, standard, strict, cn-public, or a YAML file.",
        metavar="POLICY",
        rich_help_panel=_SERVER,
    ),
]
Improve = Annotated[
    bool,
    typer.Option(
        "--improve",
        help="Improve the main model by its users' votes while the server runs; the settings improve_* say how.",
        rich_help_panel=_SERVER,
    ),
]
Precision = Annotated[
    str | None,
    typer.Option(
        help="Format of the weights in memory: auto, int8, int4 (8-bit head), int4-full, bf16, fp16 or fp32.",
        rich_help_panel=_ENGINE,
    ),
]
Context = Annotated[
    int | None,
    typer.Option(
        help="Longest context in tokens, prompt and answer together; unset: what the model allows.",
        rich_help_panel=_ENGINE,
    ),
]
KvDtype = Annotated[
    str | None,
    typer.Option(
        help="Data type of the KV cache: bf16, int8 (half the memory, at some cost in quality) or fp32.",
        rich_help_panel=_ENGINE,
    ),
]
KvTokens = Annotated[
    int | None,
    typer.Option(
        help="Size of the KV cache, which all conversations share, in tokens; unset: that of one context.",
        rich_help_panel=_ENGINE,
    ),
]
BatchSize = Annotated[
    str | None,
    typer.Option(
        help="Sequences that the engine computes together in one step: a number, or auto (64, or fewer if memory is short).",
        metavar="N",
        rich_help_panel=_ENGINE,
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(
        help="Number of compute threads; unset: the cores that this process may use.", rich_help_panel=_ENGINE
    ),
]
Speculation = Annotated[
    str | None,
    typer.Option(
        help="Speculative decoding: auto (where it is faster) or off; answers do not change.",
        rich_help_panel=_ENGINE,
    ),
]
SamplingDefaultsOption = Annotated[
    str | None,
    typer.Option(
        help="Source of sampling parameters that a request leaves out: model (its publisher), or off (OpenAI's defaults).",
        rich_help_panel=_ENGINE,
    ),
]
ModelsDir = Annotated[
    Path | None, typer.Option(help="Directory of the model store.", rich_help_panel=_ENGINE)
]
ContextPolicyOption = Annotated[
    Literal["strict", "window", "compress", "retrieve", "adapter", "auto"] | None,
    typer.Option(
        "--context-policy",
        help="Treatment of a conversation that is longer than the model's context; unset: strict, it is refused.",
        rich_help_panel=_SERVER,
    ),
]
ResponseCacheMb = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Memory in MB for whole answers, which are reused when a request repeats; 0: off; unset: 32.",
    ),
]
EmbeddingModel = Annotated[
    str | None, typer.Option(help="Second model to serve, for /v1/embeddings alone, such as minilm.")
]
ModelsOnDemand = Annotated[
    bool,
    typer.Option(
        "--models-on-demand",
        help="Load models of the store when a request names them, as far as memory allows, and unload those not used.",
        rich_help_panel=_ENGINE,
    ),
]
KeepAlive = Annotated[
    float | None,
    typer.Option(
        "--keep-alive",
        help="Seconds that a model loaded on demand stays after its last request; -1: until its room is needed; unset: 300.",
        rich_help_panel=_ENGINE,
    ),
]
SemanticCache = Annotated[
    str | None,
    typer.Option(
        help="Semantic cache: on (a question gets the answer to one that asked the same) or off; needs --embedding-model."
    ),
]
AccessLog = Annotated[
    str | None, typer.Option(help="Access log on standard error, one line a request: off, text or json.")
]
AdapterDir = Annotated[
    Path | None,
    typer.Option(
        help="Directory with folders of LoRA adapters that clients may load; unset: they may load none."
    ),
]
Workers = Annotated[
    int | None, typer.Option(min=1, help="Number of HTTP processes over the one engine; unset: 1.")
]
