"""`Section`: the base of the settings of one package."""

from __future__ import annotations

from pydantic_settings import BaseSettings, SettingsConfigDict

__all__ = ["Section"]


class Section(BaseSettings):
    """Fields of `Settings`, which is made of all sections. A section alone is a type, whose validator nobody needs."""

    model_config = SettingsConfigDict(defer_build=True)
