"""The requests that load and unload adapters, with vLLM's names."""

from __future__ import annotations

from typing import Annotated, Any

from deepwell.server.http.schema import Strict, refuse

__all__ = [
    "LoadAdapterRequest",
    "UnloadAdapterRequest",
]


class LoadAdapterRequest(Strict):
    """`POST /v1/load_lora_adapter`, with vLLM's names."""

    lora_name: str
    lora_path: str
    base_model_name: str | None = None  # a served model; unset: the main one
    load_inplace: bool | None = None  # a loaded name is always swapped
    shared: bool | None = None  # true: every tenant may use it; needs the scope admin


class UnloadAdapterRequest(Strict):
    """`POST /v1/unload_lora_adapter`, with vLLM's names."""

    lora_name: str
    lora_int_id: Annotated[Any, refuse("adapters have no numbers: leave lora_int_id out")] = None
    shared: bool | None = None  # true: the shared adapter of this name; needs the scope admin
