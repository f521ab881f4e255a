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

from deepwell.settings.engine import EngineSettings
from deepwell.settings.models import ModelSettings
from deepwell.settings.server import ServerSettings
from deepwell.settings.sources import ENV_PREFIX, InvalidSettings, config_file
from deepwell.settings.storage import StorageSettings

__all__ = ["InvalidSettings", "Settings", "config_file"]


# Pydantic lists the fields of the last base first.
class Settings(ModelSettings, StorageSettings, EngineSettings, ServerSettings):
    """Every option Deepwell has, once: a section for each package, under one list of names."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, extra="forbid", env_ignore_empty=True)

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
            raise InvalidSettings(
                f"DEEPWELL_CONFIG names {config_file()}, which is not a file",
                fix="create it, or unset DEEPWELL_CONFIG",
            )
        try:
            settings = cls(**given)
        except ValidationError as error:
            raise _invalid(error, given) from None
        except ValueError as error:  # raised by tomllib
            raise InvalidSettings(
                f"{config_file()} is not valid TOML: {error}", fix="correct it, or move it away"
            ) from None
        settings._flags = frozenset(given)
        return settings

    def origins(self) -> dict[str, str]:
        """Returns the source of every setting's value: `default`, the file, the variable, or the flag."""
        return {name: _origin(name, self._flags) for name in type(self).model_fields}


def _origin(name: str, flags: frozenset[str] | dict[str, Any]) -> str:
    if name in flags:
        return f"flag --{name.replace('_', '-')}"
    variable = f"{ENV_PREFIX}{name.upper()}"
    if any(key.upper() == variable and value for key, value in os.environ.items()):
        return f"environment {variable}"
    if name in TomlConfigSettingsSource(Settings, toml_file=config_file()).toml_data:
        return f"file {config_file()}"
    return "default"


def _invalid(error: ValidationError, flags: dict[str, Any]) -> InvalidSettings:
    # Values are not repeated because one of them may be a key.
    problems: list[str] = []
    for problem in error.errors(include_url=False, include_input=False, include_context=False):
        name = str(problem["loc"][0]) if problem["loc"] else "settings"
        if problem["type"] == "extra_forbidden":
            problems.append(f"{name} is not a setting (in {config_file()})")
        else:
            problems.append(f"{name} ({_origin(name, flags)}): {problem['msg']}")
    names = ", ".join(Settings.model_fields)
    return InvalidSettings("; ".join(problems), fix=f"correct it where it is set; the settings are {names}")
