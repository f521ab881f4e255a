"""Configurations of training by preferences: those of supervised fine-tuning with a section of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Final, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from deepwell.paths import user_path
from deepwell.tuning.train.config import LoraConfig, StepConfig, TuneConfig, paths_of

__all__ = ["DpoConfig", "DpoSettings", "KtoConfig", "KtoSettings", "PreferenceConfig", "PreferenceLora"]

Auto = Literal["auto"]
_Beta = Annotated[float, Field(gt=0, le=10)]
_ONE_PROCESS: Final = "single"


class DpoSettings(BaseModel):
    """Direct preference optimisation (arXiv 2305.18290)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    beta: _Beta = Field(0.1, description="Strength of the tie to the model that training started from.")
    label_smoothing: float = Field(
        0.0, ge=0, lt=0.5, description="Share of the pairs that may be the wrong way round."
    )


class KtoSettings(BaseModel):
    """Kahneman-Tversky optimisation (arXiv 2402.01306)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    beta: _Beta = Field(0.1, description="Strength of the tie to the model that training started from.")
    desirable_weight: Annotated[float, Field(gt=0, le=100)] | Auto = Field(
        "auto", description="Weight of good answers; auto: good and bad ones weigh the same in sum."
    )
    undesirable_weight: Annotated[float, Field(gt=0, le=100)] | Auto = Field(
        "auto", description="Weight of bad answers; auto: good and bad ones weigh the same in sum."
    )
    nll_weight: float = Field(
        0.0,
        ge=0,
        le=1000,
        description="Weight of the negative log-likelihood of the good answers; 0: they are preferred, not imitated.",
    )
    replay_weight: float = Field(
        1.0,
        ge=0,
        le=1000,
        description="Weight of replayed conversations; good and bad answers weigh 1 in sum.",
    )


class PreferenceLora(LoraConfig):
    """An adapter without dropout: dropped inputs would move it away from its reference before it has learnt anything."""

    dropout: float = Field(0.0, ge=0, lt=1, description="Share of the adapter's inputs that a step drops.")


class PreferenceConfig(TuneConfig):
    """A run that trains an adapter by preferences. Its reference is the same model without the adapter."""

    # An adapter moves a model by preferences with smaller steps than by examples of what to say.
    rate_factor: ClassVar[float] = 0.5

    format: Literal["auto"] = Field("auto", description="Format of the files, which the algorithm gives.")  # pyright: ignore[reportIncompatibleVariableOverride]
    method: Literal["lora"] = Field("lora", description="What is trained: an adapter.")  # pyright: ignore[reportIncompatibleVariableOverride]
    lora: PreferenceLora = Field(default_factory=lambda: PreferenceLora.model_validate({}))  # pyright: ignore[reportIncompatibleVariableOverride]
    train: StepConfig = Field(default_factory=lambda: StepConfig.model_validate({}))

    @model_validator(mode="after")
    def _one_process(self) -> PreferenceConfig:
        if self.train.strategy != _ONE_PROCESS:
            raise ValueError("training by preferences runs in one process: set train.strategy to single")
        return self


class DpoConfig(PreferenceConfig):
    """A run of DPO on pairs of answers."""

    algorithm: ClassVar[str] = "dpo"
    dpo: DpoSettings = Field(default_factory=lambda: DpoSettings.model_validate({}))


class KtoConfig(PreferenceConfig):
    """A run of KTO on answers with a thumb each."""

    algorithm: ClassVar[str] = "kto"
    replay: Annotated[list[Path], BeforeValidator(paths_of)] = Field(
        default_factory=list[Path],
        description="Files of conversations or texts that the model should go on to find as likely as it does.",
    )
    kto: KtoSettings = Field(default_factory=lambda: KtoSettings.model_validate({}))

    def placed(self, base: Path) -> Self:
        """Returns the configuration with replayed files behind a folder."""
        return self.model_copy(update={"replay": [base / user_path(one) for one in self.replay]})

    def more_files(self) -> list[Path]:
        """Returns the replayed files."""
        return self.replay
