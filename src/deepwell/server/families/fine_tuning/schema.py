"""The requests of `/v1/fine_tuning/jobs`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from deepwell.server.http.schema import Metadata, Strict, crossed, only_kinds, refuse

__all__ = [
    "CheckpointsQuery",
    "DpoHyperparameters",
    "FineTuningQuery",
    "FineTuningRequest",
    "LoraOptions",
    "SupervisedHyperparameters",
    "TrainOptions",
    "TuneOptions",
]

_METHODS = "is not served: it needs rewards, and tuning by examples or by pairs alone runs here; send 'supervised' or 'dpo'"
_Auto = Literal["auto"]
_FileId = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[^\x00-\x20\x7f]+$")]
_Suffix = Annotated[
    str,
    Field(
        min_length=1,
        max_length=64,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        description="Letters, digits, '.', '_' and '-': part of the model's name.",
    ),
]


class SupervisedHyperparameters(Strict):
    """Hyperparameters of supervised tuning."""

    batch_size: Annotated[int, Field(ge=1, le=4096)] | _Auto = "auto"
    learning_rate_multiplier: Annotated[float, Field(gt=0, le=1000)] | _Auto = "auto"
    n_epochs: Annotated[int, Field(ge=1, le=50)] | _Auto = "auto"


class SupervisedMethod(Strict):
    """Supervised tuning."""

    hyperparameters: SupervisedHyperparameters | None = None


class DpoHyperparameters(SupervisedHyperparameters):
    """Hyperparameters of direct preference optimisation."""

    beta: Annotated[float, Field(gt=0, le=2)] | _Auto = "auto"


class DpoMethod(Strict):
    """Direct preference optimisation, on pairs of answers."""

    hyperparameters: DpoHyperparameters | None = None


class TuningMethod(Strict):
    """The method. Reinforcement is refused with the reason."""

    type: Literal["supervised", "dpo"]
    supervised: SupervisedMethod | None = None
    dpo: DpoMethod | None = None
    reinforcement: Annotated[Any, refuse(f"reinforcement {_METHODS}")] = None

    @model_validator(mode="after")
    def _its_own(self) -> TuningMethod:
        other = "dpo" if self.type == "supervised" else "supervised"
        if getattr(self, other) is not None:
            raise crossed(f"method.{other}", f"method.{other} is given, and the type is {self.type}")
        return self

    @property
    def hyperparameters(self) -> SupervisedHyperparameters | None:
        """The hyperparameters that were given with the method."""
        section = self.supervised if self.type == "supervised" else self.dpo
        return None if section is None else section.hyperparameters


class LoraOptions(Strict):
    """The adapter: `lora` of `deepwell tune`'s configuration."""

    r: int | None = Field(None, ge=1, le=256)
    alpha: float | None = Field(None, gt=0, le=4096)
    dropout: float | None = Field(None, ge=0, lt=1)
    targets: list[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")]] | None = Field(
        None, min_length=1, max_length=32
    )


class TrainOptions(Strict):
    """The course of the training: `train` of `deepwell tune`'s configuration."""

    steps: int | None = Field(None, ge=1, le=1_000_000)
    max_tokens: int | None = Field(None, ge=16, le=1 << 17)
    warmup: float | None = Field(None, ge=0, le=1)
    schedule: Literal["cosine", "linear", "constant"] | None = None
    precision: Literal["auto", "fp32", "bf16", "fp16"] | None = None
    checkpointing: bool | None = None
    packing: bool | None = None
    patience: int | None = Field(None, ge=0, le=1000)
    evaluate_every: int | None = Field(None, ge=1)
    save_every: int | None = Field(None, ge=1)
    weight_decay: float | None = Field(None, ge=0, le=1)
    clip: float | None = Field(None, gt=0)


class TuneOptions(Strict):
    """Sections of `deepwell tune`'s configuration, which OpenAI's API does not have."""

    lora: LoraOptions | None = None
    train: TrainOptions | None = None


_Method = Annotated[TuningMethod, only_kinds("methods", "supervised", "dpo")]


class FineTuningRequest(Strict):
    """Trains an adapter of a served model on the conversations, or on the pairs of answers, of a file."""

    model: Annotated[str, Field(min_length=1, max_length=256)] = Field(description="A served model.")
    training_file: _FileId
    validation_file: _FileId | None = None
    suffix: _Suffix | None = None
    seed: int | None = Field(None, ge=0, lt=1 << 32)
    metadata: Metadata | None = None
    method: _Method | None = None
    hyperparameters: SupervisedHyperparameters | None = Field(
        None, description="Superseded by `method.supervised.hyperparameters`."
    )
    integrations: Annotated[Any, refuse("integrations are not served: metrics are in the events", [])] = None
    deepwell: TuneOptions | None = Field(None, description="Options that OpenAI's API does not have.")

    @model_validator(mode="after")
    def _one_place(self) -> FineTuningRequest:
        if self.hyperparameters is None or self.method is None:
            return self
        if self.method.hyperparameters is not None:
            raise crossed(
                "hyperparameters",
                "the hyperparameters are given twice: leave out the older `hyperparameters`",
            )
        if self.method.type != "supervised":
            raise crossed(
                "hyperparameters", "give the hyperparameters of DPO in `method.dpo.hyperparameters`"
            )
        return self

    @property
    def chosen(self) -> SupervisedHyperparameters:
        """The hyperparameters, wherever they were given."""
        if self.method is not None and self.method.hyperparameters is not None:
            return self.method.hyperparameters
        if self.algorithm == "dpo":
            return DpoHyperparameters()
        return self.hyperparameters or SupervisedHyperparameters()

    @property
    def algorithm(self) -> Literal["supervised", "dpo"]:
        """The type of the method."""
        return "supervised" if self.method is None else self.method.type


class FineTuningQuery(BaseModel):
    """A page of a list. The route reads `metadata[key]=value` itself."""

    model_config = ConfigDict(extra="ignore")

    after: str | None = Field(None, description="The last id of the page before.")
    limit: int = Field(20, ge=1, le=100)


class CheckpointsQuery(FineTuningQuery):
    """A page of checkpoints."""

    limit: int = Field(10, ge=1, le=100)
