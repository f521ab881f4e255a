"""Settings of the server: its address, keys, limits, caches, processes, log and traces."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import NoDecode

from deepwell.settings.section import Section
from deepwell.settings.sources import InvalidSettings

__all__ = ["ServerSettings"]

# What a list of these may hold in the environment: items between commas or blanks.
_Listed = Annotated[list[str], NoDecode]
_HOST = re.compile(r"(\*\.)?[a-z0-9_]([a-z0-9._-]*[a-z0-9_])?|\[[0-9a-f:.]+\]")
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://([a-z0-9._-]+|\[[0-9a-f:.]+\])(:\d{1,5})?")


class ServerSettings(Section):
    """The section of the server: its address, keys, limits, caches, processes, log and traces."""

    host: str = Field(
        "127.0.0.1", description="Address that the server binds; any other than loopback needs API keys."
    )
    port: int = Field(
        8000,
        ge=0,
        le=65535,
        description="Port that the server binds, and that `ask` and `chat` connect to; for the server, 0 takes a free one.",
    )
    container: bool | None = Field(
        None,
        description="Whether `up` takes this machine for a container, and so listens to others; unset: found out.",
    )
    confinement: Literal["available", "required"] = Field(
        "available",
        description="Walls around processes that read users' files: available takes the strongest that this machine gives, "
        "required refuses to serve without namespaces.",
    )
    api_keys: Annotated[list[SecretStr], NoDecode] = Field(
        default_factory=list[SecretStr],
        description="Keys that the server accepts besides those in its database, with at least 16 characters each.",
    )
    allowed_hosts: _Listed = Field(
        default_factory=list[str],
        description="Host names that requests may use for the server, besides its own address; *.NAME allows subdomains.",
    )
    cors_origins: _Listed = Field(
        default_factory=list[str],
        description="Origins whose web pages may call the server, such as https://app.example.com; * allows any, with keys.",
    )
    trusted_proxies: _Listed = Field(
        default_factory=list[str],
        description="Addresses or networks of reverse proxies, to which max_connections_per_address does not apply.",
    )
    max_connections: int = Field(
        0,
        ge=0,
        description="Connections that one HTTP process holds; 0: what its open files allow, up to 2048.",
    )
    max_connections_per_address: int = Field(
        0,
        ge=0,
        description="Connections of one client address, other than loopback, in one HTTP process; 0: half of all.",
    )
    max_body_bytes: int = Field(
        8 << 20, ge=1024, description="Largest body of a request, in bytes; longer ones are refused."
    )
    requests_per_minute: int = Field(
        0,
        ge=0,
        description="Requests that a tenant may send in a minute; 0: no limit. A key may carry its own.",
    )
    tokens_per_minute: int = Field(
        0, ge=0, description="Tokens that a tenant may use in a minute; 0: no limit. A key may carry its own."
    )
    audio_seconds_per_minute: int = Field(
        0,
        ge=0,
        description="Seconds of sound recognised or made for a tenant in a minute; 0: no limit. A key may carry its own.",
    )
    images_per_minute: int = Field(
        0,
        ge=0,
        description="Images that a tenant may have drawn in a minute; 0: no limit. A key may carry its own.",
    )
    feedback_per_user: int = Field(
        200,
        ge=0,
        description="Answers that one user may rate in a day; 0: no limit. A later rating of the same answer does not count.",
    )
    feedback_per_tenant: int = Field(
        10_000, ge=0, description="Answers that all users of a tenant may rate in a day; 0: no limit."
    )
    context_policy: Literal["strict", "window", "compress", "retrieve", "adapter", "auto"] = Field(
        "strict",
        description="Treatment of a conversation that is longer than the model's context; strict: it is refused.",
    )
    context_adapter_idle_s: float = Field(
        3600,
        ge=0,
        description="Seconds without a turn after which the adapter that was trained on a conversation is dropped.",
    )
    request_timeout_s: float = Field(
        1800, ge=0, description="Seconds after which a request ends with an error; 0: no limit."
    )
    max_wait_s: float = Field(
        60,
        ge=0,
        description="Seconds that a request may wait for its turn; a longer wait is refused at once; 0: no limit.",
    )
    valkey_url: SecretStr | None = Field(
        None,
        description="URL of a Valkey that shares limits and cached answers between hosts; unset: each host has its own.",
    )
    batch_concurrency: int = Field(
        16,
        ge=1,
        description="Requests of batches that each HTTP process answers side by side, behind everybody who waits.",
    )
    fine_tuning_jobs: int = Field(
        1,
        ge=0,
        le=16,
        description="Fine-tuning jobs that train at a time, at the lowest priority; 0: none are accepted.",
    )
    response_cache_mb: int = Field(
        32,
        ge=0,
        description="MB of memory for whole answers, reused when a deterministic request repeats exactly; 0: off.",
    )
    response_cache_ttl_s: float = Field(
        3600, gt=0, description="Seconds for which a whole answer is reused after it was generated."
    )
    workers: int = Field(1, ge=1, le=64, description="Number of HTTP processes; all share one engine.")
    drain_seconds: float = Field(
        20.0, ge=0, description="Seconds that answers in flight may go on when the server is asked to stop."
    )
    client_timeout_s: float = Field(
        30.0,
        gt=0,
        description="Seconds after which a client that neither sends its request nor takes its answer is cut off.",
    )
    keep_alive_s: float = Field(
        75.0, gt=0, description="Seconds after which a connection without a further request is closed."
    )
    engine_timeout_s: float = Field(
        10.0,
        ge=0.5,
        description="Seconds after which a process of the server that neither answers nor moves is replaced.",
    )
    step_timeout_s: float = Field(
        60.0,
        ge=1,
        description="Seconds after which an engine that has work and finishes no step is replaced.",
    )
    engine_wait_s: float = Field(
        30.0,
        ge=0,
        description="Seconds that requests wait for an engine that is being restarted, before a 503.",
    )
    semantic_cache: Literal["off", "on"] = Field(
        "off",
        description="Whether a question gets the answer to one that asked the same in other words; needs embedding_model.",
    )
    semantic_min_cosine: float = Field(
        0.8,
        ge=0,
        le=1,
        description="Least cosine of two questions, besides their wording, for the semantic cache to answer.",
    )
    semantic_cache_mb: int = Field(16, ge=1, description="MB of memory for the semantic cache.")
    semantic_ttl_s: float = Field(
        3600.0, gt=0, description="Seconds for which the semantic cache may give an answer again."
    )
    access_log: Literal["off", "text", "json"] = Field(
        "off",
        description="Format of the access log, one line a request: text is logfmt; keys and texts are never in it.",
    )
    access_log_file: Path | None = Field(
        None,
        description="File of the access log, which is appended to and reopened when it was moved; unset: standard error.",
    )
    trace_endpoint: str | None = Field(
        None,
        description="OTLP/HTTP collector for traces, such as http://127.0.0.1:4318; unset: no traces. Needs deepwell[otel].",
    )
    trace_share: float = Field(
        1.0, ge=0, le=1, description="Share of the traces that begin here which is sampled, from 0 to 1."
    )
    release: str | None = Field(
        None,
        description="Release that this server serves, as ALIAS=MODEL: the alias means this model here, in any roll-out.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "warning", description="Level of the server's log."
    )

    @field_validator("api_keys", "allowed_hosts", "cors_origins", "trusted_proxies", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return [key for key in value.replace(",", " ").split() if key] if isinstance(value, str) else value

    @field_validator("release")
    @classmethod
    def _alias_and_model(cls, release: str | None) -> str | None:
        if release is not None and not all(release.rpartition("=")[::2]):
            raise ValueError("write ALIAS=MODEL, such as smollm2@prod=smollm2")
        return release

    @field_validator("api_keys")
    @classmethod
    def _long_keys(cls, keys: list[SecretStr]) -> list[SecretStr]:
        if any(len(key.get_secret_value()) < 16 for key in keys):
            raise ValueError("a key needs at least 16 characters")
        return keys

    @field_validator("allowed_hosts")
    @classmethod
    def _host_names(cls, names: list[str]) -> list[str]:
        names = [name.lower() for name in names]
        if wrong := next((name for name in names if not _HOST.fullmatch(name)), None):
            raise ValueError(
                f"{wrong!r} is not the name of a host: write app.example.com, without scheme or port"
            )
        return names

    @field_validator("cors_origins")
    @classmethod
    def _origins(cls, origins: list[str]) -> list[str]:
        origins = [origin.lower() for origin in origins]
        if wrong := next((one for one in origins if one != "*" and not _ORIGIN.fullmatch(one)), None):
            raise ValueError(f"{wrong!r} is not an origin: write https://app.example.com, without a path")
        return [re.sub(r"^(http://.*):80$|^(https://.*):443$", r"\1\2", origin) for origin in origins]

    @field_validator("trusted_proxies")
    @classmethod
    def _networks(cls, proxies: list[str]) -> list[str]:
        for proxy in proxies:
            ipaddress.ip_network(proxy, strict=False)
        return proxies

    def released(self) -> dict[str, str]:
        """Returns the model of the release by its alias; empty: this server serves all versions."""
        alias, _, model = (self.release or "").rpartition("=")
        return {alias: model} if alias else {}

    def is_exposed(self) -> bool:
        """Returns whether `host` can be reached from other machines."""
        if self.host == "localhost":
            return False
        try:
            return not ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return True

    def require_safe_address(self, *, stored_keys: Callable[[], bool] = lambda: False) -> None:
        """Refuses to listen to other machines, or to the pages of every origin, without keys.

        Args:
            stored_keys: returns whether the database has a usable key; called only if it matters.

        Raises:
            InvalidSettings: `host` is not a loopback address or `cors_origins` has `*`, while `api_keys` is empty and the
                database has no key either.
        """
        if self.is_exposed() and not self.api_keys and not stored_keys():
            raise InvalidSettings.of("address_exposed", host=self.host)
        if "*" in self.cors_origins and not self.api_keys and not stored_keys():
            raise InvalidSettings.of("origins_exposed")
