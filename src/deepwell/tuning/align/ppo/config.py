"""The configuration of a reinforcement run: few fields, in YAML or JSON, each checked before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from deepwell.paths import user_path
from deepwell.tuning.train.config import LoraConfig, parse_config_as, read_config_as

__all__ = ["PPOConfig", "RewardConfig", "StepsConfig", "parse_config", "read_config"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def _paths(value: object) -> object:
    return [value] if isinstance(value, str | Path) else value


Paths = Annotated[list[Path], BeforeValidator(_paths), Field(min_length=1)]


class AdapterConfig(LoraConfig):
    """The adapter. Dropout would make the ratio of an update that changed nothing differ from 1."""

    dropout: Literal[0] = Field(0, description="None: probabilities of old and new policy must compare.")  # pyright: ignore[reportIncompatibleVariableOverride, reportGeneralTypeIssues]


class RewardConfig(_Strict):
    """A reward: the source of an answer's score.

    Attributes:
        type: `classifier` is fitted to labelled texts, `preferences` to pairs of answers; `rule` looks for a pattern, and
            `grader` is one of OpenAI's graders. Programs that wire further kinds name them.
    """

    type: str = Field(min_length=1, description="Kind: classifier, preferences, rule or grader.")
    data: Annotated[list[Path], BeforeValidator(_paths)] = Field(
        default_factory=list[Path], description="Files that a classifier or a preference model is fitted to."
    )
    label: str = Field("", description="Class of a classifier whose probability is the score.")
    pattern: str = Field("", description="Regular expression of a rule (RE2).")
    want: Literal["present", "absent"] = Field(
        "present", description="Whether a rule gives 1 to answers with the pattern, or to those without."
    )
    grader: dict[str, Any] = Field(
        default_factory=dict[str, Any], description="A grader in OpenAI's form; it sees `item` and `sample`."
    )
    models: dict[str, str] = Field(
        default_factory=dict[str, str],
        description="Places of the models that a grader asks, by the names it has for them; a name that is not here is one "
        "of the store, or a path.",
    )
    embedding_model: str = Field(
        "", description="Model of the metric cosine of a grader; unset: the model as it was before training."
    )


class StepsConfig(_Strict):
    """The course of the reinforcement."""

    iterations: int = Field(20, ge=1, le=100_000, description="Rounds of rollouts and updates.")
    prompts: int = Field(32, ge=1, le=65_536, description="Prompts of an iteration.")
    samples: int = Field(
        1, ge=1, le=256, description="Answers to each prompt; GRPO compares them, and needs 2 or more."
    )
    new_tokens: int = Field(24, ge=1, le=8192, description="Most tokens of an answer.")
    temperature: float = Field(1.0, gt=0, le=2, description="Spread of the sampling; nothing else bends it.")
    epochs: int = Field(2, ge=1, le=64, description="Passes over the rollouts of an iteration.")
    minibatches: int = Field(4, ge=1, le=1024, description="Optimiser steps of a pass.")
    micro_tokens: int = Field(1024, ge=16, description="Tokens computed at a time.")
    learning_rate: float = Field(3e-4, gt=0, le=1, description="Learning rate of the adapter.")
    value_learning_rate: float = Field(1e-2, gt=0, le=1, description="Learning rate of the value head.")
    clip: float = Field(0.2, gt=0, lt=1, description="Largest change of a ratio that still pays.")
    value_clip: float = Field(0.5, gt=0, description="Largest change of a value that still pays.")
    gamma: float = Field(1.0, gt=0, le=1, description="Discount of later rewards.")
    lam: float = Field(0.95, ge=0, le=1, description="Decay of generalised advantage estimation.")
    kl_coefficient: float = Field(
        0.05,
        ge=0,
        le=10,
        description="First weight of the divergence from the base; it adapts to the budget.",
    )
    kl_budget: float = Field(
        0.1, gt=0, description="Most divergence from the base, in nats a token; the artefact keeps to it."
    )
    update_kl: float = Field(
        0.05, gt=0, description="Divergence within an iteration, in nats a token, at which its updates stop."
    )
    end_penalty: float = Field(
        0.0, ge=0, description="Taken from the score of an answer that does not end in time."
    )
    cost_limit: float = Field(0.0, description="Mean cost that the run keeps to, where it has a cost.")
    cost_rate: float = Field(0.5, gt=0, description="Step of the multiplier of the cost.")
    max_norm: float = Field(1.0, gt=0, description="Largest norm of the gradient.")
    max_prompt_tokens: int = Field(512, ge=1, description="Longest prompt; longer ones are dropped.")
    evaluate_every: int = Field(
        0, ge=0, description="Iterations between measurements on the held-out prompts; 0: at the end alone."
    )
    evaluation_samples: int = Field(1, ge=1, le=64, description="Answers to each prompt of a measurement.")
    save_every: int = Field(5, ge=1, description="Iterations between checkpoints.")
    precision: Literal["auto", "fp32", "bf16"] = Field("auto", description="Format of the frozen weights.")
    rollout_precision: Literal["auto", "int8", "int4", "bf16", "fp32"] = Field(
        "auto", description="Format of the engine's weights."
    )
    seed: int = Field(0, ge=0, lt=1 << 32, description="Seed of prompts, sampling and adapter.")
    threads: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        "auto", description="Threads of training; auto: the usable cores."
    )


class PPOConfig(_Strict):
    """A reinforcement run.

    Attributes:
        validation: files of held-out prompts, or the share of the prompts to hold out.
        cost: a second reward that the run keeps below `train.cost_limit`.
        judge: a reward of other features that is only measured, never trained against.
    """

    method: ClassVar[str] = "lora"

    model: str = Field("smollm2", min_length=1, description="Model: a name in the store, or a path.")
    data: Paths = Field(description="Files of prompts.")
    validation: Annotated[float, Field(ge=0, le=0.5)] | Paths = Field(
        0.1, description="Files of held-out prompts, or the share of the prompts to hold out; 0: none."
    )
    output: Path = Field(Path("runs/ppo"), description="Folder of the run.")
    algorithm: Literal["ppo", "grpo"] = Field("ppo", description="Algorithm.")
    reward: RewardConfig = Field(description="The reward that is trained for.")
    cost: RewardConfig | None = Field(None, description="A cost with a limit.")
    judge: RewardConfig | None = Field(None, description="A second opinion that is never trained against.")
    lora: AdapterConfig = Field(default_factory=lambda: AdapterConfig.model_validate({}))
    train: StepsConfig = Field(default_factory=lambda: StepsConfig.model_validate({}))

    @model_validator(mode="after")
    def _consistent(self) -> PPOConfig:
        if self.algorithm == "grpo" and self.train.samples < 2:
            raise ValueError(
                "train.samples is 1, and GRPO compares 2 answers or more to a prompt: train.samples=4 is usual"
            )
        if self.algorithm == "grpo" and self.cost is not None:
            raise ValueError("cost needs the algorithm ppo, and algorithm is grpo")
        return self

    def placed(self, base: Path) -> PPOConfig:
        """Returns the configuration with the files of its rewards behind a folder, where they are relative."""
        found: dict[str, RewardConfig] = {}
        for name in ("reward", "cost", "judge"):
            reward: RewardConfig | None = getattr(self, name)
            if reward is not None:
                data = [base / user_path(path) for path in reward.data]
                found[name] = reward.model_copy(update={"data": data})
        return self.model_copy(update=found)

    def to_json(self) -> dict[str, Any]:
        """Returns the configuration as plain JSON values."""
        return self.model_dump(mode="json")


def read_config(path: Path) -> PPOConfig:
    """Reads a YAML or JSON file. Paths in it are relative to its folder.

    Raises:
        InvalidRequest: the file is missing or too large, is no mapping, or holds an unknown key or an unusable value.
    """
    # What the reader uses of a configuration, this one has as well.
    return read_config_as(cast("type[Any]", PPOConfig), path)


def parse_config(value: Mapping[str, Any], *, where: str = "") -> PPOConfig:
    """Checks a mapping and returns the configuration.

    Args:
        where: name of the source, for errors.

    Raises:
        InvalidRequest: a key is unknown, or a value cannot be used.
    """
    return parse_config_as(cast("type[Any]", PPOConfig), value, where=where)
