"""The family of LoRA adapters, with vLLM's paths."""

from __future__ import annotations

from deepwell.server.families.adapters.bodies import LoadedAdapter, UnloadedAdapter
from deepwell.server.families.adapters.routes import router
from deepwell.server.families.adapters.schema import LoadAdapterRequest, UnloadAdapterRequest
from deepwell.server.families.family import Family
from deepwell.server.http.declaration import Declaration, Operation

__all__ = ["FAMILY"]

FAMILY = Family(
    Declaration(
        (
            Operation("post", "/v1/load_lora_adapter", LoadedAdapter, request=LoadAdapterRequest),
            Operation("post", "/v1/unload_lora_adapter", UnloadedAdapter, request=UnloadAdapterRequest),
        ),
        api="vllm",
        scope="adapters",
    ),
    router,
    enabled=lambda context: context.options.adapter_dir is not None,
)
