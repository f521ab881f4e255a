"""Settings of data at rest: the database, files and jobs."""

from __future__ import annotations

import re
from pathlib import Path

from pydantic import Field, SecretStr, field_validator

from deepwell.settings.section import Section
from deepwell.settings.sources import data_root, state_root

__all__ = ["StorageSettings", "check_bucket", "check_endpoint"]

_PLACE = re.compile(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[A-Za-z0-9_-][A-Za-z0-9._-]*)*/?")
_ENDPOINT = re.compile(
    r"https?://[A-Za-z0-9.-]+(:\d{1,5})?(/[A-Za-z0-9._/-]*)?|https?://\[[0-9a-fA-F:]+\](:\d{1,5})?/?"
)


class StorageSettings(Section):
    """The section of data at rest: the database, files and jobs."""

    data_dir: Path = Field(
        default_factory=data_root, description="Directory of the database, and of files that clients send."
    )
    state_dir: Path = Field(
        default_factory=state_root,
        description="Directory that remembers databases with keys, so that a lost data_dir is noticed.",
    )
    deployments_dir: Path | None = Field(
        None,
        description="Directory in which a server finds what deployments tell of themselves. Unset: deploy in state_dir.",
    )
    database_url: SecretStr | None = Field(
        None,
        description="PostgreSQL database in place of the one in data_dir: postgresql://user:password@host/name.",
    )
    blobs: str | None = Field(
        None,
        description="Object store for the bytes of files, in place of the folder `files` in data_dir: s3://bucket/prefix.",
    )
    blobs_endpoint: str | None = Field(
        None, description="URL of an S3-compatible store; unset: Amazon's of the region."
    )
    blobs_region: str | None = Field(
        None, description="Region of the bucket; unset: AWS_REGION, or us-east-1."
    )
    blobs_credentials: Path | None = Field(
        None,
        description="File with aws_access_key_id and aws_secret_access_key below [default]; unset: the AWS_ variables.",
    )
    blobs_cache_bytes: int = Field(
        10 << 30, ge=0, description="Bytes of files of the object store that this machine keeps at hand."
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

    @field_validator("blobs")
    @classmethod
    def _of_bucket(cls, place: str | None) -> str | None:
        return check_bucket(place)

    @field_validator("blobs_endpoint")
    @classmethod
    def _of_http(cls, url: str | None) -> str | None:
        return check_endpoint(url)


def check_bucket(place: str | None) -> str | None:
    """Returns the place of a bucket as it is.

    Raises:
        ValueError: it is none.
    """
    if place is not None and not _PLACE.fullmatch(place):
        raise ValueError(
            "write it as s3://bucket/prefix, of letters, digits and . _ - /; the prefix may be left out"
        )
    return place


def check_endpoint(url: str | None) -> str | None:
    """Returns the URL of an object store as it is.

    Raises:
        ValueError: it is none, or has a secret in it.
    """
    found = None if url is None else _ENDPOINT.fullmatch(url)
    if url is not None and (found is None or int((found[1] or found[3] or ":1")[1:]) not in range(1, 65536)):
        raise ValueError("write it as https://host:port, without a user, a password or a query")
    return url
