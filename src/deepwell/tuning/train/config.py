"""The configuration of a training run: few fields, in YAML or JSON, each checked before anything is loaded."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal, Self, TypeVar, cast

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from deepwell.errors import InvalidRequest
from deepwell.messages import nearest
from deepwell.paths import user_path

__all__ = [
    "LoraConfig",
    "StepConfig",
    "TuneConfig",
    "automatic_rate",
    "parse_config",
    "parse_config_as",
    "paths_of",
    "read_config",
    "read_config_as",
    "session_config",
    "write_config",
]

MAX_CONFIG_BYTES: Final = 1 << 20
_MOST_VALUES: Final = 100_000  # with those that YAML repeats
Auto = Literal["auto"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class LoraConfig(_Strict):
    """Low-rank adapters: y = W x + alpha / r * B A x (arXiv 2106.09685)."""

    r: int = Field(16, ge=1, le=512, description="Rank of the update.")
    alpha: float = Field(32, gt=0, le=4096, description="Scale of the update; it is divided by the rank.")
    dropout: float = Field(0.1, ge=0, lt=1, description="Share of the adapter's inputs that a step drops.")
    targets: list[str] = Field(
        default=["q_proj", "v_proj"],
        min_length=1,
        description="Projections to adapt; q_proj and v_proj are mapped to those of the architecture.",
    )


class StepConfig(_Strict):
    """The course of the optimisation. Sizes count tokens, because conversations differ in length."""

    epochs: float = Field(3, gt=0, le=1000, description="Passes over the training data.")
    steps: int | None = Field(None, ge=1, description="Optimiser steps; it replaces the number of epochs.")
    batch_tokens: int | Auto = Field(
        "auto", description="Tokens of an optimiser step; auto: 20 steps in an epoch, of 4096 at most."
    )
    micro_tokens: int | Auto = Field(
        "auto",
        description="Tokens computed at a time; auto: what fits the memory. It does not change results.",
    )
    max_tokens: int | Auto = Field(
        "auto",
        description="Longest conversation; longer ones are cut. Auto: 1024, or what the model has positions for.",
    )
    learning_rate: Annotated[float, Field(gt=0, le=1)] | Auto = Field(
        "auto", description="Highest learning rate; auto: by the width of the model and the method."
    )
    warmup: float = Field(0.03, ge=0, le=1, description="Share of the steps over which the rate rises.")
    schedule: Literal["cosine", "linear", "constant"] = Field("cosine", description="Fall of the rate.")
    weight_decay: float = Field(0.0, ge=0, le=1, description="Weight decay of AdamW.")
    clip: float = Field(1.0, gt=0, description="Largest norm of the gradient.")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto", description="Format of the matrix products."
    )
    checkpointing: bool = Field(False, description="Whether activations are computed again, to save memory.")
    packing: bool = Field(
        True, description="Whether conversations share rows, each attending to itself alone."
    )
    seed: int = Field(0, ge=0, lt=1 << 32, description="Seed of the order, the adapter and the dropout.")
    patience: int = Field(3, ge=0, description="Validations without progress before the run ends; 0: never.")
    evaluate_every: int | Auto = Field("auto", description="Steps between validations; auto: ten in a run.")
    save_every: int | Auto = Field("auto", description="Steps between checkpoints; auto: as validations.")
    threads: int | Auto = Field("auto", description="Threads of a process; auto: the cores that it may use.")
    strategy: Literal["single", "ddp", "fsdp2", "tensor", "zero"] = Field(
        "single", description="Work of several processes, which torchrun starts."
    )

    @model_validator(mode="after")
    def _positive(self) -> StepConfig:
        for name, least in (
            ("batch_tokens", 16),
            ("micro_tokens", 1),
            ("max_tokens", 16),
            ("evaluate_every", 1),
            ("save_every", 1),
            ("threads", 1),
        ):
            value = getattr(self, name)
            if isinstance(value, int) and value < least:
                raise ValueError(f"train.{name} is {value}, and must be at least {least} or auto")
        return self


def paths_of(value: object) -> object:
    """Returns a list of paths, also for one that stands alone."""
    return [value] if isinstance(value, str | Path) else value


class TuneConfig(_Strict):
    """A training run.

    Attributes:
        validation: files of held-out conversations, a share of the data to hold out, or None for no validation.
        output: folder of the run.
        algorithm: name of what the run computes, for the record of its artefact.
        rate_factor: factor of the automatic learning rate.
    """

    algorithm: ClassVar[str] = "sft"
    rate_factor: ClassVar[float] = 1.0

    model: str = Field("smollm2", min_length=1, description="Model: a name in the store, or a path.")
    data: Annotated[list[Path], BeforeValidator(paths_of)] = Field(
        min_length=1, description="Files of conversations."
    )
    format: Literal["auto", "chat", "sharegpt", "alpaca", "text"] = Field(
        "auto", description="Format of the files."
    )
    validation: Annotated[float, Field(ge=0, le=0.5)] | Annotated[list[Path], BeforeValidator(paths_of)] = (
        Field(
            0.05,
            description="Files of held-out conversations, or the share of the data to hold out; 0: none.",
        )
    )
    output: Path = Field(Path("runs/tune"), description="Folder of the run.")
    method: Literal["lora", "full"] = Field(
        "lora", description="What is trained: an adapter, or every weight."
    )
    lora: LoraConfig = Field(default_factory=lambda: LoraConfig.model_validate({}))
    train: StepConfig = Field(default_factory=lambda: StepConfig.model_validate({}))

    def placed(self, base: Path) -> Self:
        """Returns the configuration with further relative paths, of kinds that have them, behind a folder."""
        return self

    def more_files(self) -> list[Path]:
        """Returns files besides data and validation that a run of another kind learns from; their hashes are recorded."""
        return []

    def to_json(self) -> dict[str, Any]:
        """Returns the configuration as plain JSON values."""
        return self.model_dump(mode="json")


_C = TypeVar("_C", bound=TuneConfig)


def read_config(path: Path) -> TuneConfig:
    """Returns `read_config_as` of supervised fine-tuning."""
    return read_config_as(TuneConfig, path)


def read_config_as(kind: type[_C], path: Path) -> _C:
    """Reads a YAML or JSON file. Paths in it are relative to its folder.

    Args:
        kind: class of the configuration.

    Raises:
        InvalidRequest: the file is missing or too large, is no mapping, or holds an unknown key or an unusable value.
    """
    try:
        size = path.stat().st_size
        if size > MAX_CONFIG_BYTES:
            raise InvalidRequest.of("tune_config_large", path=path, size=size)
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InvalidRequest.of("tune_config_unreadable", path=path, reason=reason) from None
    try:
        value = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
        count = _count(value, {})
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise InvalidRequest.of("tune_config_form", path=path, reason=error) from None
    if count > _MOST_VALUES:
        raise InvalidRequest.of("tune_config_values", path=path, most=f"{_MOST_VALUES:,}")
    if not isinstance(value, dict):
        raise InvalidRequest.of("tune_config_mapping", path=path)
    return parse_config_as(kind, cast("dict[str, Any]", value), base=path.parent, where=path.name)


def _count(value: object, counted: dict[int, int]) -> int:
    """Returns the number of values in a value, in which YAML may repeat or contain itself what it holds once."""
    parts: Any = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
    if not parts:
        return 1
    if id(value) not in counted:
        counted[id(value)] = _MOST_VALUES + 1  # if it contains itself
        counted[id(value)] = 1 + sum(_count(one, counted) for one in parts)
    return counted[id(value)]


def parse_config(value: Mapping[str, Any], *, base: Path | None = None, where: str = "") -> TuneConfig:
    """Returns `parse_config_as` of supervised fine-tuning."""
    return parse_config_as(TuneConfig, value, base=base, where=where)


def parse_config_as(
    kind: type[_C], value: Mapping[str, Any], *, base: Path | None = None, where: str = ""
) -> _C:
    """Checks a mapping and returns the configuration.

    Args:
        kind: class of the configuration.
        base: folder that relative paths of files begin at; None: they stay as they are.
        where: name of the source, for errors.

    Raises:
        InvalidRequest: a key is unknown, or a value cannot be used.
    """
    try:
        config = kind.model_validate(value)
    except ValidationError as error:
        raise _invalid(kind, error, where) from None
    if base is None:
        return config
    validation = config.validation
    model = config.model
    if "/" in model and not Path(model).is_absolute() and (base / model).exists():
        model = str(base / model)
    return config.model_copy(
        update={
            "model": model,
            "data": [base / user_path(path) for path in config.data],
            "validation": [base / user_path(p) for p in validation]
            if isinstance(validation, list)
            else validation,
            "output": base / user_path(config.output),
        }
    ).placed(base)


def write_config(config: TuneConfig, path: Path) -> None:
    """Writes the whole configuration as JSON, defaults included."""
    path.write_text(json.dumps(config.to_json(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _sections(kind: type[BaseModel]) -> dict[str, type[BaseModel]]:
    fields = {name: field.annotation for name, field in kind.model_fields.items()}
    return {name: one for name, one in fields.items() if isinstance(one, type) and issubclass(one, BaseModel)}


def _invalid(kind: type[BaseModel], error: ValidationError, where: str) -> InvalidRequest:
    """Returns the first problem in words, with the nearest known key for an unknown one."""
    problems = error.errors(include_url=False)
    problem = next((one for one in problems if one["type"] == "extra_forbidden"), problems[0])
    loc = [str(part) for part in problem["loc"] if not str(part).startswith(("function-", "constrained-"))]
    # A union names its branches in the location; the field itself comes first, or after its section.
    sections = _sections(kind)
    depth = 2 if loc and loc[0] in sections else 1
    name = ".".join(loc[:depth])
    prefix = f"{where}: " if where else ""
    if problem["type"] == "extra_forbidden":
        section = sections.get(loc[0]) if len(loc) > 1 else None
        known = (section or kind).model_fields
        near = nearest(loc[-1], known)
        if not near and section is None:  # it may belong to a section
            near = next((f"{s}.{loc[-1]}" for s, one in sections.items() if loc[-1] in one.model_fields), "")
        listed = ", ".join(known)
        right = f"did you mean {near}?" if near else f"the keys are {listed}"
        right_zh = f"你是不是想写 {near}？" if near else f"可用的有 {listed}"
        return InvalidRequest.of(
            "tune_key", param=name, where=prefix, name=name, right=right, right_zh=right_zh
        )
    if problem["type"] == "missing":
        return InvalidRequest.of("tune_config_missing", param=name, where=prefix, name=name)
    reason = problem["msg"].removeprefix("Value error, ")
    if not name:  # two keys that do not go together: the reason names them, and the whole file says nothing
        return InvalidRequest.of("tune_config_clash", where=prefix, reason=reason)
    got = str(problem.get("input"))[:80]
    return InvalidRequest.of("tune_config_value", param=name, where=prefix, name=name, reason=reason, got=got)


def automatic_rate(hidden_size: int, method: str) -> float:
    """Returns a learning rate by the width of the model: narrow ones take larger steps, adapters ten times those of weights.

    A sweep over Llama models of different widths found the exponent (Schulman et al., LoRA Without Regret, 2025).
    """
    rate = min(1e-3, max(1e-4, 5e-4 * (2000 / hidden_size) ** 0.781))
    return float(f"{rate if method == 'lora' else rate / 10:.1e}")


def session_config(
    model: str, data: Path, output: Path, *, threads: int | Auto = "auto", seed: int = 0
) -> dict[str, Any]:
    """Returns the configuration of an adapter that learns one conversation: small, in few steps, and without checkpoints.

    Args:
        data: the records of the conversation; see `knowledge.context.rehearsal`.
    """
    return {
        "model": model,
        "data": [str(data)],
        "format": "auto",
        "validation": 0,
        "output": str(output),
        "method": "lora",
        "lora": {"r": 8, "alpha": 32, "dropout": 0.0, "targets": ["q_proj", "v_proj"]},
        "train": {
            "epochs": 3,
            "batch_tokens": 192,
            "learning_rate": 5e-3,
            "warmup": 0.05,
            "schedule": "linear",
            "patience": 0,
            "evaluate_every": 1 << 20,
            "save_every": 1 << 20,
            "threads": threads,
            "seed": seed,
        },
    }
