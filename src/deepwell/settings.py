"""The one typed settings object: defaults, file, environment (`DEEPWELL_*`), flags, in rising precedence."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

__all__ = ["Settings"]


def _cache_root() -> Path:
    if home := os.environ.get("DEEPWELL_HOME"):
        return Path(home) / "cache"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "deepwell"


class Settings(BaseSettings):
    """Every option Deepwell has, once."""

    model_config = SettingsConfigDict(env_prefix="DEEPWELL_", extra="forbid")

    models_dir: Path = Field(default_factory=lambda: _cache_root() / "models", description="The model store.")
