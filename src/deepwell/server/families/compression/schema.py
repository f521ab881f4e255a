"""The requests of `/v1/compression/jobs`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from deepwell.server.http.schema import Metadata, Strict, crossed

__all__ = ["CompressionRequest", "ConvertOptions", "PruneOptions", "QuantiseOptions"]

_FileId = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[^\x00-\x20\x7f]+$")]
_Minutes = Annotated[
    float, Field(ge=0.05, le=1440, description="Minutes that the recovery takes, and no more.")
]
_Recover = Annotated[
    Literal["distil", "none"],
    Field(description="distil: the result learns the donor's predictions on the text afterwards."),
]


class PruneOptions(Strict):
    """Options of `prune`: the parts that matter least are left out."""

    share: float = Field(0.2, ge=0, le=0.7, description="Share of all weights to leave out.")
    ways: Annotated[list[Literal["depth", "width", "heads"]], Field(min_length=1, max_length=3)] = Field(
        default_factory=lambda: ["depth", "width", "heads"], description="Parts that may be cut."
    )
    recover: _Recover = "distil"
    minutes: _Minutes = 10.0


class ConvertOptions(Strict):
    """Options of `convert`: a Llama is written in DeepSeek-V3's shape."""

    to: Literal["mla", "moe", "deepseek-v3"] = Field(
        "mla", description="mla: latent attention; moe: mixtures of experts; deepseek-v3: both."
    )
    cached: int | None = Field(
        None,
        ge=16,
        le=1 << 20,
        description="Numbers cached a token and layer; left out: 5/16 of the donor's.",
    )
    sparsity: float = Field(0.25, ge=0, le=0.75, description="Share of an MLP that a token leaves out.")
    experts: int = Field(16, ge=4, le=256, description="Parts that an MLP is divided into.")
    recover: _Recover = "distil"
    minutes: _Minutes = 20.0


class QuantiseOptions(Strict):
    """Options of `quantise`: a GGUF file of fewer bits a weight."""

    type: Literal["q4_0", "q4_1", "q4_k", "q8_0", "q3_k"] = Field("q4_1", description="Format of the layers.")
    algorithm: Literal["auto", "gptq", "awq", "none"] = Field(
        "auto", description="Way to round; none rounds to nearest and needs no text."
    )


class CompressionRequest(Strict):
    """`POST /v1/compression/jobs`: a smaller model of a served one."""

    method: Literal["prune", "convert", "quantise"]
    model: str = Field(
        min_length=1, max_length=256, description="A served model that is no adapter: the donor."
    )
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,95}$")] | None = Field(
        None,
        description="Name of the result in the model store; left out: one made of the donor and the method.",
    )
    text_file: _FileId | None = Field(
        None, description="Text of the kind that the model will serve, in UTF-8. It chooses and teaches."
    )
    held_out_file: _FileId | None = Field(
        None, description="Text that takes no part: donor and result are measured on it."
    )
    prune: PruneOptions | None = None
    convert: ConvertOptions | None = None
    quantise: QuantiseOptions | None = None
    metadata: Metadata | None = None

    @model_validator(mode="after")
    def _its_own(self) -> CompressionRequest:
        for other in ("prune", "convert", "quantise"):
            if other != self.method and getattr(self, other) is not None:
                reason = f"{other} is given, and the method is {self.method}"
                raise crossed(other, f"{reason}: leave it out, or set method to {other}")
        plain = self.quantise is not None and self.quantise.algorithm == "none"
        if self.text_file is None and not plain:
            reason = f"{self.method} needs text of the kind that the model will serve"
            fix = "send it to /v1/files with the purpose user_data, and give its id as text_file"
            raise crossed("text_file", f"{reason}: {fix}")
        return self
