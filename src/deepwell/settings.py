"""The typed settings object. Sources in rising precedence: defaults, file, environment (`DEEPWELL_*`), flags."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PrivateAttr, SecretStr, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from deepwell.errors import DeepwellError

__all__ = ["InvalidSettings", "Settings", "config_file"]

_ENV_PREFIX = "DEEPWELL_"


class InvalidSettings(DeepwellError):
    """Raised for a setting with an unusable value. The message names the setting and the value's source."""

    type = "invalid_settings"


def _cache_root() -> Path:
    if home := os.environ.get("DEEPWELL_HOME"):
        return Path(home) / "cache"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "deepwell"


def _data_root() -> Path:
    if home := os.environ.get("DEEPWELL_HOME"):
        return Path(home) / "data"
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "deepwell"


def config_file() -> Path:
    """Returns the TOML file of the settings: `DEEPWELL_CONFIG`, else `~/.config/deepwell/config.toml`.

    `DEEPWELL_HOME` and `XDG_CONFIG_HOME` move the default.
    """
    if path := os.environ.get("DEEPWELL_CONFIG"):
        return Path(path)
    if home := os.environ.get("DEEPWELL_HOME"):
        return Path(home) / "config.toml"
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "deepwell" / "config.toml"


class Settings(BaseSettings):
    """Every option Deepwell has, once."""

    model_config = SettingsConfigDict(env_prefix=_ENV_PREFIX, extra="forbid", env_ignore_empty=True)

    host: str = Field("127.0.0.1", description="The address the server binds.")
    port: int = Field(8000, ge=0, le=65535, description="The port the server binds; 0 takes a free one.")
    api_keys: Annotated[list[SecretStr], NoDecode] = Field(
        default_factory=list[SecretStr],
        description="Bearer keys the server accepts; empty: no key is asked for.",
    )
    max_body_bytes: int = Field(8 << 20, ge=1024, description="Requests with a longer body are refused.")

    requests_per_minute: int = Field(
        0, ge=0, description="Requests a tenant may send in a minute; 0: no limit. A key may carry its own."
    )
    tokens_per_minute: int = Field(
        0, ge=0, description="Tokens a tenant may use in a minute; 0: no limit. A key may carry its own."
    )
    request_timeout_s: float = Field(
        1800, ge=0, description="A request that takes longer ends with an error; 0: none does."
    )
    max_wait_s: float = Field(
        60, ge=0, description="A request that would wait longer for its turn is refused at once; 0: none is."
    )
    valkey_url: SecretStr | None = Field(
        None,
        description="Valkey that shares limits and cached answers between hosts; unset: each has its own.",
    )
    max_file_bytes: int = Field(512 << 20, ge=1, description="Of one file sent to /v1/files.")
    max_upload_bytes: int = Field(8 << 30, ge=1, description="Of one file sent in parts through /v1/uploads.")
    batch_concurrency: int = Field(
        16,
        ge=1,
        description="Requests of batches that are answered side by side, behind everybody who waits.",
    )
    job_lease_s: float = Field(
        10.0, gt=0, description="Seconds of silence after which another server takes over a job."
    )

    response_cache_mb: int = Field(
        32,
        ge=0,
        description="Memory for whole answers, reused when a deterministic request repeats exactly; 0: off.",
    )
    response_cache_ttl_s: float = Field(
        3600, gt=0, description="How long a whole answer is reused after it was generated."
    )

    workers: int = Field(1, ge=1, le=64, description="HTTP processes; all share one engine.")
    drain_seconds: float = Field(
        20.0, ge=0, description="How long answers in flight may go on when the server is asked to stop."
    )
    client_timeout_s: float = Field(
        30.0, gt=0, description="A client that takes nothing of its answer for so long is cut off."
    )
    engine_timeout_s: float = Field(
        10.0, ge=0.5, description="A process of the server that does not answer for so long is replaced."
    )
    engine_wait_s: float = Field(
        30.0, ge=0, description="How long requests wait for an engine that is being restarted, before a 503."
    )

    model: str = Field("smollm2", description="The model that is served: a name in the store, or a path.")
    embedding_model: str | None = Field(
        None, description="A second model, for /v1/embeddings alone: a name in the store, or a path."
    )
    precision: Literal["auto", "int8", "int4", "int4-full", "bf16", "fp16", "fp32"] = Field(
        "auto", description="Weights in memory; auto: 4-bit files as int4, everything else as int8."
    )
    context: int | None = Field(
        None, ge=1, description="Tokens a sequence may hold; unset: what the model allows."
    )
    kv_dtype: Literal["fp32", "bf16", "int8"] = Field("bf16", description="Keys and values in the cache.")
    kv_tokens: int | None = Field(
        None, ge=1, description="Tokens the whole KV cache holds; unset: chosen to fit."
    )
    adapter_dir: Path | None = Field(
        None,
        description="Clients may load LoRA adapters from folders of this directory; unset: they may not.",
    )
    threads: int | None = Field(
        None, ge=1, description="Compute threads; unset: the cores this process may use."
    )
    speculation: Literal["auto", "off"] = Field(
        "auto", description="Draft tokens from the text so far where that is faster; answers do not change."
    )
    isa: str | None = Field(None, description="Force a lower kernel table, for example avx2 or generic.")

    models_dir: Path = Field(default_factory=lambda: _cache_root() / "models", description="The model store.")
    data_dir: Path = Field(
        default_factory=_data_root, description="The database, and the files that clients send."
    )
    database_url: SecretStr | None = Field(
        None,
        description="A PostgreSQL database in place of the one in data_dir: postgresql://user:password@host/name.",
    )
    offline: bool = Field(False, description="Never touch the network.")
    semantic_cache: Literal["off", "on"] = Field(
        "off",
        description="Answer a deterministic question as one that asked the same in other words; needs embedding_model.",
    )
    semantic_min_cosine: float = Field(
        0.8,
        ge=0,
        le=1,
        description="How alike two questions must be for the embedder, besides their wording.",
    )
    semantic_cache_mb: int = Field(16, ge=1, description="Memory for the semantic cache.")
    semantic_ttl_s: float = Field(
        3600.0, gt=0, description="For how long the semantic cache may give an answer again, in seconds."
    )

    access_log: Literal["off", "text", "json"] = Field(
        "off", description="One line a request: as logfmt, or as JSON; keys and texts are never in it."
    )
    access_log_file: Path | None = Field(
        None, description="Where the access log is written, appended to and reopened; unset: standard error."
    )
    trace_endpoint: str | None = Field(
        None,
        description="An OTLP/HTTP collector for traces, such as http://127.0.0.1:4318; unset: none. Needs deepwell[otel].",
    )
    trace_share: float = Field(
        1.0, ge=0, le=1, description="Of the traces that begin here, how many are sampled, 0 to 1."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "warning", description="Server log level."
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

    @field_validator("api_keys", mode="before")
    @classmethod
    def _split_keys(cls, value: Any) -> Any:
        return [key for key in value.replace(",", " ").split() if key] if isinstance(value, str) else value

    @field_validator("database_url")
    @classmethod
    def _of_postgresql(cls, url: SecretStr | None) -> SecretStr | None:
        if url is not None and not url.get_secret_value().startswith(("postgresql", "postgres:")):
            raise ValueError(
                "it has to begin with postgresql://; without it the database is a file in data_dir"
            )
        return url

    @field_validator("api_keys")
    @classmethod
    def _long_keys(cls, keys: list[SecretStr]) -> list[SecretStr]:
        if any(len(key.get_secret_value()) < 16 for key in keys):
            raise ValueError("a key needs at least 16 characters")
        return keys

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

    def is_exposed(self) -> bool:
        """Returns whether `host` can be reached from other machines."""
        if self.host == "localhost":
            return False
        try:
            return not ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return True

    def require_safe_address(self, *, stored_keys: Callable[[], bool] = lambda: False) -> None:
        """Refuses to listen to other machines without keys.

        Args:
            stored_keys: returns whether the database has a usable key; called only if it matters.

        Raises:
            InvalidSettings: `host` is not a loopback address, `api_keys` is empty, and the database has no key either.
        """
        if self.is_exposed() and not self.api_keys and not stored_keys():
            raise InvalidSettings(
                f"binding to {self.host} would let every machine that reaches it use the model: no API key is set",
                fix='`deepwell keys create NAME` makes one (or export DEEPWELL_API_KEYS="$(openssl rand -hex 32)"), '
                "or use --host 127.0.0.1",
            )


def _origin(name: str, flags: frozenset[str] | dict[str, Any]) -> str:
    if name in flags:
        return f"flag --{name.replace('_', '-')}"
    variable = f"{_ENV_PREFIX}{name.upper()}"
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
