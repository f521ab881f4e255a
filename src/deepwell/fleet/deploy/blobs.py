"""`BlobTerms`: the object store of a deployment, as its declaration names it."""

from __future__ import annotations

import re
from typing import Final

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator

from deepwell.settings.storage import check_bucket, check_endpoint

__all__ = ["BlobTerms"]

_REGION: Final = re.compile(r"[a-z0-9-]{1,40}")


class BlobTerms(BaseModel):
    """Bucket of an S3-compatible object store for the bytes of files, which all replicas then share on any machine.

    Attributes:
        bucket: as s3://bucket/prefix.
        endpoint: URL of the store; unset: Amazon's of the region.
        credentials: `file:PATH` of a file in the format of ~/.aws/credentials; unset: replicas find some where they run.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    bucket: str
    endpoint: str | None = None
    region: str | None = None
    credentials: str | None = None

    def variables(self, credentials: str | None) -> dict[str, str]:
        """Returns the settings of a replica by variable. `credentials` is the path of the file where it runs."""
        named = {
            "DEEPWELL_BLOBS": self.bucket,
            "DEEPWELL_BLOBS_ENDPOINT": self.endpoint,
            "DEEPWELL_BLOBS_REGION": self.region,
            "DEEPWELL_BLOBS_CREDENTIALS": credentials,
        }
        return {name: value for name, value in named.items() if value is not None}

    @field_validator("bucket", "endpoint")
    @classmethod
    def _as_settings(cls, text: str | None, info: ValidationInfo) -> str | None:
        return check_bucket(text) if info.field_name == "bucket" else check_endpoint(text)

    @field_validator("region")
    @classmethod
    def _plain(cls, region: str | None) -> str | None:
        if region is not None and not _REGION.fullmatch(region):
            raise ValueError("use small letters, digits and hyphens, such as eu-central-1")
        return region

    @field_validator("credentials")
    @classmethod
    def _by_file(cls, place: str | None) -> str | None:
        # A declaration is committed and shown.
        if place is not None and not (place.startswith("file:") and place.isprintable()):
            raise ValueError("name a file that holds them, such as file:/run/secrets/blobs")
        return place
