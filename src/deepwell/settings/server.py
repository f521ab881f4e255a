"""Settings of the server: its address, keys, limits, caches, processes, log and traces."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode

from deepwell.settings.sources import InvalidSettings

__all__ = ["ServerSettings"]


class ServerSettings(BaseSettings):
    """The section of the server: its address, keys, limits, caches, processes, log and traces."""

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
    batch_concurrency: int = Field(
        16,
        ge=1,
        description="Requests of batches that are answered side by side, behind everybody who waits.",
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
        10.0,
        ge=0.5,
        description="A process of the server that neither answers nor moves for so long is replaced.",
    )
    step_timeout_s: float = Field(
        60.0, ge=1, description="An engine that has work and finishes no step for so long is replaced."
    )
    engine_wait_s: float = Field(
        30.0, ge=0, description="How long requests wait for an engine that is being restarted, before a 503."
    )
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

    @field_validator("api_keys", mode="before")
    @classmethod
    def _split_keys(cls, value: Any) -> Any:
        return [key for key in value.replace(",", " ").split() if key] if isinstance(value, str) else value

    @field_validator("api_keys")
    @classmethod
    def _long_keys(cls, keys: list[SecretStr]) -> list[SecretStr]:
        if any(len(key.get_secret_value()) < 16 for key in keys):
            raise ValueError("a key needs at least 16 characters")
        return keys

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
