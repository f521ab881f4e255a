"""Settings of the engine: precision, memory, threads, adapters."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SecretStr, field_validator

from deepwell.settings.section import Section

__all__ = ["EngineSettings"]


class EngineSettings(Section):
    """The section of the engine: precision, memory, threads, adapters."""

    engine: str = Field(
        "native",
        description="Engine of the main model: native (Deepwell's own), vllm (started here where it is installed), or the URL "
        "of a server that runs it, perhaps with its kind: vllm=http://10.0.0.7:8000; the kinds are vllm, sglang and openai.",
    )
    engine_model: str | None = Field(
        None,
        description="Name by which the server of engine knows the model; unset: its only model, or the one of the same name.",
    )
    engine_key: SecretStr | None = Field(None, description="Key that the server of engine asks for.")
    engine_key_file: Path | None = Field(
        None, description="File with the key that the server of engine asks for, in place of engine_key."
    )
    vllm_python: Path | None = Field(
        None,
        description="Python of the environment that vLLM is installed in; unset: this one, or that of the command vllm.",
    )
    vllm_options: str = Field(
        "",
        description="Further options of vLLM where it is started here, such as --enforce-eager; they come last, so they win.",
    )
    gpus: str | None = Field(
        None, description="GPUs that vLLM gets: all, or a number; unset: all, where engine is vllm."
    )
    tensor_parallel: int | None = Field(
        None, ge=1, description="GPUs that each layer of a model is split over by vLLM; unset: 1."
    )
    precision: Literal["auto", "int8", "int4", "int4-full", "bf16", "fp16", "fp32"] = Field(
        "auto",
        description="Format of the weights in memory; auto: 4-bit files as int4, everything else as int8.",
    )
    context: int | None = Field(
        None, ge=1, description="Tokens that a sequence may hold; unset: what the model allows."
    )
    kv_dtype: Literal["fp32", "bf16", "int8"] = Field(
        "bf16",
        description="Data type of keys and values in the cache; int8 takes half the memory and costs some quality.",
    )
    kv_tokens: int | None = Field(
        None,
        ge=1,
        description="Tokens of the KV cache, which all conversations share; unset: those of one context.",
    )
    batch_size: int | None = Field(
        None,
        ge=1,
        description="Sequences that the engine computes together in one step; unset or auto: 64, or fewer if memory is short.",
    )
    adapter_dir: Path | None = Field(
        None,
        description="Directory with folders of LoRA adapters that clients may load; unset: they may load none.",
    )
    threads: int | None = Field(
        None, ge=1, description="Compute threads; unset: the cores that this process may use."
    )
    speculation: Literal["auto", "off"] = Field(
        "auto",
        description="Whether tokens are drafted from the text so far where that is faster; answers do not change.",
    )
    isa: str | None = Field(
        None,
        description="Kernel table to use in place of the best one of this processor, such as avx2 or generic.",
    )

    @field_validator("batch_size", "tensor_parallel", mode="before")
    @classmethod
    def _auto(cls, value: Any) -> Any:
        return None if value == "auto" else value
