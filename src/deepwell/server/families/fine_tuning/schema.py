"""The requests of `/v1/fine_tuning/jobs`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from deepwell.server.http.schema import Metadata, Strict, crossed, only_kinds, only_values, refuse

__all__ = [
    "CheckpointsQuery",
    "DpoHyperparameters",
    "FineTuningQuery",
    "FineTuningRequest",
    "LoraOptions",
    "ReinforcementHyperparameters",
    "ReinforcementOptions",
    "SupervisedHyperparameters",
    "TrainOptions",
    "TuneOptions",
]

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


class _Finite(Strict):
    """Numbers, all of which are finite."""

    model_config = ConfigDict(allow_inf_nan=False)


class SupervisedHyperparameters(_Finite):
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


class ReinforcementHyperparameters(SupervisedHyperparameters):
    """Hyperparameters of reinforcement: a batch is the prompts of an iteration."""

    compute_multiplier: Annotated[float, Field(gt=0, le=16)] | _Auto = "auto"
    eval_interval: Annotated[int, Field(ge=1, le=100_000)] | _Auto = "auto"
    eval_samples: Annotated[int, Field(ge=1, le=64)] | _Auto = "auto"
    reasoning_effort: Annotated[
        Literal["default"],
        only_values(
            "reasoning_effort", "default", instead="leave it out: answers are sampled as they are served"
        ),
    ] = "default"


class ReinforcementMethod(Strict):
    """Reinforcement: the answers to prompts are scored by a grader."""

    grader: dict[str, Any] = Field(description="string_check, text_similarity, score_model or multi.")
    hyperparameters: ReinforcementHyperparameters | None = None


class TuningMethod(Strict):
    """The method."""

    type: Literal["supervised", "dpo", "reinforcement"]
    supervised: SupervisedMethod | None = None
    dpo: DpoMethod | None = None
    reinforcement: ReinforcementMethod | None = None

    @model_validator(mode="after")
    def _its_own(self) -> TuningMethod:
        for other in ("supervised", "dpo", "reinforcement"):
            if other != self.type and getattr(self, other) is not None:
                raise crossed(f"method.{other}", f"method.{other} is given, and the type is {self.type}")
        if self.type == "reinforcement" and self.reinforcement is None:
            raise crossed(
                "method.reinforcement",
                'the type is reinforcement, and there is no grader: send "reinforcement": {"grader": {...}}',
            )
        return self

    @property
    def hyperparameters(self) -> SupervisedHyperparameters | None:
        """The hyperparameters that were given with the method."""
        section: SupervisedMethod | DpoMethod | ReinforcementMethod | None = getattr(self, self.type)
        return None if section is None else section.hyperparameters


class LoraOptions(_Finite):
    """The adapter: `lora` of `deepwell tune`'s configuration."""

    r: int | None = Field(None, ge=1, le=256)
    alpha: float | None = Field(None, gt=0, le=4096)
    dropout: float | None = Field(None, ge=0, lt=1)
    targets: list[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")]] | None = Field(
        None, min_length=1, max_length=32
    )


class TrainOptions(_Finite):
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


class ReinforcementOptions(_Finite):
    """The course of a reinforcement: `train` of `deepwell tune ppo`'s configuration, and its algorithm."""

    algorithm: Literal["grpo", "ppo"] = "grpo"
    iterations: int | None = Field(None, ge=1, le=100_000)
    samples: int | None = Field(None, ge=1, le=256)
    new_tokens: int | None = Field(None, ge=1, le=8192)
    max_prompt_tokens: int | None = Field(None, ge=1, le=1 << 17)
    temperature: float | None = Field(None, gt=0, le=2)
    kl_budget: float | None = Field(None, gt=0)
    kl_coefficient: float | None = Field(None, ge=0, le=10)
    clip: float | None = Field(None, gt=0, lt=1)
    end_penalty: float | None = Field(None, ge=0)
    epochs: int | None = Field(None, ge=1, le=64)
    minibatches: int | None = Field(None, ge=1, le=1024)
    save_every: int | None = Field(None, ge=1)
    precision: Literal["auto", "fp32", "bf16"] | None = None

    @model_validator(mode="after")
    def _compared(self) -> ReinforcementOptions:
        if self.algorithm == "grpo" and self.samples == 1:
            raise crossed(
                "deepwell.reinforcement.samples",
                'GRPO compares the answers to a prompt: send 2 samples or more, or "algorithm": "ppo"',
            )
        return self


class TuneOptions(Strict):
    """Sections of `deepwell tune`'s configuration, which OpenAI's API does not have."""

    lora: LoraOptions | None = None
    train: TrainOptions | None = None
    reinforcement: ReinforcementOptions | None = None


_Method = Annotated[TuningMethod, only_kinds("methods", "supervised", "dpo", "reinforcement")]


class FineTuningRequest(Strict):
    """Trains an adapter of a served model on the conversations, the pairs of answers or the prompts of a file."""

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
    def _its_own_options(self) -> FineTuningRequest:
        given, reinforced = self.deepwell, self.algorithm == "reinforcement"
        if given is None:
            return self
        if reinforced and given.train is not None:
            raise crossed(
                "deepwell.train",
                "deepwell.train is of supervised tuning and DPO: give deepwell.reinforcement",
            )
        if not reinforced and given.reinforcement is not None:
            raise crossed(
                "deepwell.reinforcement", f"deepwell.reinforcement is given, and the type is {self.algorithm}"
            )
        return self

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
                "hyperparameters",
                f"give the hyperparameters in `method.{self.method.type}.hyperparameters`",
            )
        return self

    @property
    def chosen(self) -> SupervisedHyperparameters:
        """The hyperparameters, wherever they were given."""
        if self.method is not None and self.method.hyperparameters is not None:
            return self.method.hyperparameters
        if self.algorithm == "dpo":
            return DpoHyperparameters()
        if self.algorithm == "reinforcement":
            return ReinforcementHyperparameters()
        return self.hyperparameters or SupervisedHyperparameters()

    @property
    def algorithm(self) -> Literal["supervised", "dpo", "reinforcement"]:
        """The type of the method."""
        return "supervised" if self.method is None else self.method.type

    @property
    def grader(self) -> dict[str, Any] | None:
        """The grader of a reinforcement."""
        section = None if self.method is None else self.method.reinforcement
        return None if section is None else section.grader


class FineTuningQuery(BaseModel):
    """A page of a list. The route reads `metadata[key]=value` itself."""

    model_config = ConfigDict(extra="ignore")

    after: str | None = Field(None, description="The last id of the page before.")
    limit: int = Field(20, ge=1, le=100)


class CheckpointsQuery(FineTuningQuery):
    """A page of checkpoints."""

    limit: int = Field(10, ge=1, le=100)
