"""Settings of data at rest: the database, files and jobs."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings

from deepwell.settings.sources import data_root

__all__ = ["StorageSettings"]


class StorageSettings(BaseSettings):
    """The section of data at rest: the database, files and jobs."""

    data_dir: Path = Field(
        default_factory=data_root, description="The database, and the files that clients send."
    )
    database_url: SecretStr | None = Field(
        None,
        description="A PostgreSQL database in place of the one in data_dir: postgresql://user:password@host/name.",
    )
    max_file_bytes: int = Field(512 << 20, ge=1, description="Of one file sent to /v1/files.")
    max_upload_bytes: int = Field(8 << 30, ge=1, description="Of one file sent in parts through /v1/uploads.")
    job_lease_s: float = Field(
        10.0, gt=0, description="Seconds of silence after which another server takes over a job."
    )

    @field_validator("database_url")
    @classmethod
    def _of_postgresql(cls, url: SecretStr | None) -> SecretStr | None:
        if url is not None and not url.get_secret_value().startswith(("postgresql", "postgres:")):
            raise ValueError(
                "it has to begin with postgresql://; without it the database is a file in data_dir"
            )
        return url
