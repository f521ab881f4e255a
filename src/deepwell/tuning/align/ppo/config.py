"""The configuration of a reinforcement run: few fields, in YAML or JSON, each checked before anything is loaded."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, cast

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from deepwell.errors import InvalidRequest
from deepwell.messages import nearest
from deepwell.tuning.train.config import LoraConfig

__all__ = ["PPOConfig", "RewardConfig", "StepsConfig", "parse_config", "read_config"]

MAX_CONFIG_BYTES: Final = 1 << 20


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _paths(value: object) -> object:
    return [value] if isinstance(value, str | Path) else value


Paths = Annotated[list[Path], BeforeValidator(_paths), Field(min_length=1)]


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
    save_every: int = Field(5, ge=1, description="Iterations between checkpoints.")
    precision: Literal["auto", "fp32", "bf16"] = Field("auto", description="Format of the frozen weights.")
    rollout_precision: Literal["auto", "int8", "int4", "bf16", "fp32"] = Field(
        "auto", description="Format of the engine's weights."
    )
    seed: int = Field(0, ge=0, lt=1 << 32, description="Seed of prompts, sampling and adapter.")
    threads: int | Literal["auto"] = Field("auto", description="Threads of training; auto: the usable cores.")


class PPOConfig(_Strict):
    """A reinforcement run.

    Attributes:
        validation: files of held-out prompts, or the share of the prompts to hold out.
        cost: a second reward that the run keeps below `train.cost_limit`.
        judge: a reward of other features that is only measured, never trained against.
    """

    model: str = Field("smollm2", min_length=1, description="Model: a name in the store, or a path.")
    prompts: Paths = Field(description="Files of prompts.")
    validation: Annotated[float, Field(ge=0, le=0.5)] | Paths = Field(
        0.1, description="Files of held-out prompts, or the share of the prompts to hold out; 0: none."
    )
    output: Path = Field(Path("runs/ppo"), description="Folder of the run.")
    algorithm: Literal["ppo", "grpo"] = Field("ppo", description="Algorithm.")
    reward: RewardConfig = Field(description="The reward that is trained for.")
    cost: RewardConfig | None = Field(None, description="A cost with a limit.")
    judge: RewardConfig | None = Field(None, description="A second opinion that is never trained against.")
    # Dropout would make the ratio of an update that changed nothing differ from 1.
    lora: LoraConfig = Field(default_factory=lambda: LoraConfig.model_validate({"dropout": 0.0}))
    train: StepsConfig = Field(default_factory=lambda: StepsConfig.model_validate({}))

    @model_validator(mode="after")
    def _consistent(self) -> PPOConfig:
        if self.algorithm == "grpo" and self.train.samples < 2:
            raise ValueError("train.samples is 1, and GRPO compares 2 answers or more to a prompt")
        if self.algorithm == "grpo" and self.cost is not None:
            raise ValueError("cost needs the algorithm ppo")
        if self.lora.dropout:
            raise ValueError("lora.dropout must be 0: probabilities of old and new policy would not compare")
        return self

    def to_json(self) -> dict[str, Any]:
        """Returns the configuration as plain JSON values."""
        return self.model_dump(mode="json")


_SECTIONS: Final[dict[str, type[BaseModel]]] = {
    "lora": LoraConfig,
    "train": StepsConfig,
    "reward": RewardConfig,
    "cost": RewardConfig,
    "judge": RewardConfig,
}


def read_config(path: Path) -> PPOConfig:
    """Reads a YAML or JSON file. Paths in it are relative to its folder.

    Raises:
        InvalidRequest: the file is missing or too large, is no mapping, or holds an unknown key or an unusable value.
    """
    return parse_config(read_mapping(path), base=path.parent, where=path.name)


def read_mapping(path: Path) -> dict[str, Any]:
    """Reads a YAML or JSON file of keys.

    Raises:
        InvalidRequest: the file is missing or too large, or is no mapping.
    """
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise InvalidRequest(f"{path} is larger than a configuration", fix="name a smaller file")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"{path} cannot be read: {error}", fix="name a YAML or JSON file") from None
    try:
        value = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise InvalidRequest(f"{path} is not well formed: {error}", fix="correct the file") from None
    if not isinstance(value, dict):
        raise InvalidRequest(f"{path} holds no mapping", fix="write keys such as `model:` and `prompts:`")
    return cast("dict[str, Any]", value)


def parse_config(value: Mapping[str, Any], *, base: Path | None = None, where: str = "") -> PPOConfig:
    """Checks a mapping and returns the configuration.

    Args:
        base: folder that relative paths of files begin at; None: they stay as they are.
        where: name of the source, for errors.

    Raises:
        InvalidRequest: a key is unknown, or a value cannot be used.
    """
    given = dict(value)
    if isinstance(given.get("lora"), Mapping):
        given["lora"] = {"dropout": 0.0, **given["lora"]}
    try:
        config = PPOConfig.model_validate(given)
    except ValidationError as error:
        raise _invalid(error, where) from None
    return config if base is None else _placed(config, base)


def _placed(config: PPOConfig, base: Path) -> PPOConfig:
    def of(paths: list[Path]) -> list[Path]:
        return [base / path.expanduser() for path in paths]

    found: dict[str, Any] = {"prompts": of(config.prompts), "output": base / config.output.expanduser()}
    if isinstance(config.validation, list):
        found["validation"] = of(config.validation)
    if "/" in config.model and not Path(config.model).is_absolute() and (base / config.model).exists():
        found["model"] = str(base / config.model)
    for name in ("reward", "cost", "judge"):
        reward: RewardConfig | None = getattr(config, name)
        if reward is not None:
            found[name] = reward.model_copy(update={"data": of(reward.data)})
    return config.model_copy(update=found)


def _invalid(error: ValidationError, where: str) -> InvalidRequest:
    """Returns the first problem in words, with the nearest known key for an unknown one."""
    problems = error.errors(include_url=False)
    problem = next((one for one in problems if one["type"] == "extra_forbidden"), problems[0])
    loc = [str(part) for part in problem["loc"] if not str(part).startswith(("function-", "constrained-"))]
    name = ".".join(loc[: 2 if loc and loc[0] in _SECTIONS else 1])
    prefix = f"{where}: " if where else ""
    if problem["type"] == "extra_forbidden":
        known = (_SECTIONS.get(loc[0], PPOConfig) if len(loc) > 1 else PPOConfig).model_fields
        near = nearest(loc[-1], known)
        right = f"did you mean {near}?" if near else f"the keys are {', '.join(known)}"
        return InvalidRequest(f"{prefix}there is no key {name!r}", fix=right, param=name)
    if problem["type"] == "missing":
        return InvalidRequest(f"{prefix}{name!r} is missing", fix=f"give {name}", param=name)
    reason = problem["msg"].removeprefix("Value error, ")
    got = "" if problem["type"] == "value_error" else f", not {str(problem.get('input'))[:80]!r}"
    return InvalidRequest(
        f"{prefix}{name or 'the configuration'}: {reason}{got}", fix=f"correct {name or 'it'}", param=name
    )
