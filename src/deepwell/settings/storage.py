"""Settings of data at rest: the database, files and jobs."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, SecretStr, field_validator

from deepwell.settings.section import Section
from deepwell.settings.sources import data_root, state_root

__all__ = ["StorageSettings"]


class StorageSettings(Section):
    """The section of data at rest: the database, files and jobs."""

    data_dir: Path = Field(
        default_factory=data_root, description="Directory of the database, and of files that clients send."
    )
    state_dir: Path = Field(
        default_factory=state_root,
        description="Directory that remembers databases with keys, so that a lost data_dir is noticed.",
    )
    database_url: SecretStr | None = Field(
        None,
        description="PostgreSQL database in place of the one in data_dir: postgresql://user:password@host/name.",
    )
    max_file_bytes: int = Field(512 << 20, ge=1, description="Largest file that /v1/files takes, in bytes.")
    max_upload_bytes: int = Field(
        8 << 30, ge=1, description="Largest file that /v1/uploads takes in parts, in bytes."
    )
    job_lease_s: float = Field(
        10.0, gt=0, description="Seconds of silence after which another server takes over a job."
    )

    response_retention_days: float = Field(
        30.0, ge=0, description="Days for which a stored response is kept; 0: until a client deletes it."
    )
    completion_retention_days: float = Field(
        0.0,
        ge=0,
        description="Days for which a stored chat completion is kept; 0: until a client deletes it.",
    )
    conversation_retention_days: float = Field(
        0.0, ge=0, description="Days for which an unused conversation is kept; 0: until a client deletes it."
    )
    file_retention_days: float = Field(
        0.0,
        ge=0,
        description="Days for which a file without an expiry of its own is kept; 0: until a client deletes it.",
    )
    batch_retention_days: float = Field(
        0.0, ge=0, description="Days for which a batch is listed after its end; 0: for ever."
    )
    job_retention_days: float = Field(
        30.0, ge=0, description="Days for which finished jobs and uploads are listed; 0: for ever."
    )

    @field_validator("database_url")
    @classmethod
    def _of_postgresql(cls, url: SecretStr | None) -> SecretStr | None:
        if url is not None and not url.get_secret_value().startswith(("postgresql", "postgres:")):
            raise ValueError(
                "it has to begin with postgresql://; without it the database is a file in data_dir"
            )
        return url
