"""Settings of the engine: precision, memory, threads, adapters."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings

__all__ = ["EngineSettings"]


class EngineSettings(BaseSettings):
    """The section of the engine: precision, memory, threads, adapters."""

    precision: Literal["auto", "int8", "int4", "int4-full", "bf16", "fp16", "fp32"] = Field(
        "auto", description="Weights in memory; auto: 4-bit files as int4, everything else as int8."
    )
    context: int | None = Field(
        None, ge=1, description="Tokens a sequence may hold; unset: what the model allows."
    )
    kv_dtype: Literal["fp32", "bf16", "int8"] = Field("bf16", description="Keys and values in the cache.")
    kv_tokens: int | None = Field(
        None, ge=1, description="Tokens the whole KV cache holds; unset: chosen to fit."
    )
    adapter_dir: Path | None = Field(
        None,
        description="Clients may load LoRA adapters from folders of this directory; unset: they may not.",
    )
    threads: int | None = Field(
        None, ge=1, description="Compute threads; unset: the cores this process may use."
    )
    speculation: Literal["auto", "off"] = Field(
        "auto", description="Draft tokens from the text so far where that is faster; answers do not change."
    )
    isa: str | None = Field(None, description="Force a lower kernel table, for example avx2 or generic.")
