"""`BlobPlace`: the place of the blobs, as the settings name it."""

from __future__ import annotations

import configparser
import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from deepwell.errors import InvalidRequest, MissingDependency
from deepwell.settings.storage import StorageSettings

__all__ = ["BlobPlace", "read_credentials"]

_MOST_BYTES: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class BlobPlace:
    """The bucket of the blobs. The settings of the same names describe each.

    Attributes:
        most_bytes: size of the largest blob that is taken from the store.
    """

    bucket: str
    prefix: str = ""
    endpoint: str | None = None
    region: str | None = None
    credentials: Path | None = None
    cache_bytes: int = 10 << 30
    most_bytes: int = 8 << 30

    @classmethod
    def of(cls, settings: StorageSettings) -> BlobPlace | None:
        """Reads the place from the settings; None: the blobs are in a folder of this machine.

        Raises:
            MissingDependency: the extra `[s3]` is not installed.
            InvalidRequest: the file of the credentials cannot be used.
        """
        if settings.blobs is None:
            return None
        if find_spec("obstore") is None:
            raise MissingDependency.of(
                "extra_missing",
                feature="the object store",
                package="obstore",
                extra="s3",
                variable="DEEPWELL_BLOBS",
            )
        if settings.blobs_credentials is not None:
            read_credentials(settings.blobs_credentials)
        bucket, _, prefix = settings.blobs.removeprefix("s3://").partition("/")
        return cls(
            bucket,
            prefix.strip("/"),
            settings.blobs_endpoint,
            settings.blobs_region,
            settings.blobs_credentials,
            settings.blobs_cache_bytes,
            max(settings.max_upload_bytes, settings.max_file_bytes),
        )

    @property
    def shown(self) -> str:
        """The place, as messages name it."""
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/")


def read_credentials(path: Path, environ: Mapping[str, str] = os.environ) -> tuple[str, str, str | None]:
    """Returns the id, the secret and the session token, if any, of a file in the format of `~/.aws/credentials`.

    Raises:
        InvalidRequest: it cannot be read, or has no key in the section of AWS_PROFILE, which is `default` if unset.
    """
    section = environ.get("AWS_PROFILE") or "default"
    parser = configparser.RawConfigParser()
    reason = f"it has no aws_access_key_id and aws_secret_access_key below [{section}]"
    try:
        with path.open("rb") as file:
            parser.read_string(file.read(_MOST_BYTES).decode())
        found = dict(parser.items(section)) if parser.has_section(section) else {}
    except (OSError, UnicodeDecodeError, configparser.Error) as error:
        # What a parser says has lines of the file in it.
        found, reason = {}, getattr(error, "strerror", None) or "it is no file of sections and keys"
    key, secret = found.get("aws_access_key_id", ""), found.get("aws_secret_access_key", "")
    if not key or not secret:
        raise InvalidRequest.of("blobs_credentials", file=path, reason=reason)
    return key, secret, found.get("aws_session_token") or None
