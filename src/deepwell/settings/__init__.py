"""The typed settings object. Sources in rising precedence: defaults, file, environment (`DEEPWELL_*`), flags."""

from __future__ import annotations

import os
from typing import Any

from pydantic import PrivateAttr, ValidationError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from deepwell.settings.agents import AgentSettings
from deepwell.settings.client import ClientSettings
from deepwell.settings.engine import EngineSettings
from deepwell.settings.images import ImageSettings
from deepwell.settings.improve import ImproveSettings
from deepwell.settings.knowledge import KnowledgeSettings
from deepwell.settings.mcp import McpSettings
from deepwell.settings.models import ModelSettings
from deepwell.settings.problems import invalid, refuse_misspelt_variables
from deepwell.settings.recognition import RecognitionSettings
from deepwell.settings.safety import SafetySettings
from deepwell.settings.server import ServerSettings
from deepwell.settings.sources import ENV_PREFIX, InvalidSettings, config_file
from deepwell.settings.storage import StorageSettings

__all__ = ["InvalidSettings", "Settings", "config_file"]


# Flags that are not called like their setting.
_FLAGS = {
    "allowed_hosts": "--allowed-host",
    "cors_origins": "--cors-origin",
    "model_keep_alive_s": "--keep-alive",
}


# Pydantic lists the fields of the last base first.
class Settings(
    ClientSettings,
    AgentSettings,
    ModelSettings,
    StorageSettings,
    EngineSettings,
    ImageSettings,
    RecognitionSettings,
    McpSettings,
    KnowledgeSettings,
    ImproveSettings,
    SafetySettings,
    ServerSettings,
):
    """Every option Deepwell has, once: a section for each package, under one list of names."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, extra="forbid", env_ignore_empty=True, defer_build=False
    )

    _flags: frozenset[str] = PrivateAttr(default=frozenset())

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, toml_file=config_file())

    @classmethod
    def load(cls, **flags: Any) -> Settings:
        """Reads every source. Flags that are `None` count as not given.

        Raises:
            InvalidSettings: a value is unusable; the message names the setting, the value's source and the problem.
        """
        given = {name: value for name, value in flags.items() if value is not None}
        if os.environ.get("DEEPWELL_CONFIG") and not config_file().is_file():
            raise InvalidSettings.of("config_missing", file=config_file())
        refuse_misspelt_variables(cls.model_fields)
        try:
            settings = cls(**given)
        except ValidationError as error:
            problems = error.errors(include_url=False, include_input=False, include_context=False)
            raise invalid(problems, cls, lambda name: _origin(name, given), config_file()) from None
        except ValueError as error:  # raised by tomllib
            raise InvalidSettings.of("config_not_toml", file=config_file(), reason=error) from None
        if settings.knowledge_vectors == "pgvector" and settings.database_url is None:
            raise InvalidSettings.of("vectors_need_postgres")
        settings._flags = frozenset(given)
        return settings

    def with_model(self, name: str) -> Settings:
        """Returns the same settings for another model, as if a flag named it."""
        other = self.model_copy(update={"model": name})
        other._flags = self._flags | {"model"}
        return other

    def origins(self) -> dict[str, str]:
        """Returns the source of every setting's value: `default`, the file, the variable, or the flag."""
        return {name: _origin(name, self._flags) for name in type(self).model_fields}


def _origin(name: str, flags: frozenset[str] | dict[str, Any]) -> str:
    if name in flags:
        return f"flag {_FLAGS.get(name, '--' + name.replace('_', '-'))}"
    variable = f"{ENV_PREFIX}{name.upper()}"
    if any(key.upper() == variable and value for key, value in os.environ.items()):
        return f"environment {variable}"
    if name in TomlConfigSettingsSource(Settings, toml_file=config_file()).toml_data:
        return f"file {config_file()}"
    return "default"
