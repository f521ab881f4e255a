"""Settings of the engine: precision, memory, threads, adapters."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from deepwell.settings.section import Section

__all__ = ["EngineSettings"]


class EngineSettings(Section):
    """The section of the engine: precision, memory, threads, adapters."""

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
        None, ge=1, description="Tokens that the whole KV cache holds; unset: chosen to fit the memory."
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

    @field_validator("batch_size", mode="before")
    @classmethod
    def _auto(cls, value: Any) -> Any:
        return None if value == "auto" else value
