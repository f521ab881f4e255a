"""`Bucket`: objects of an S3-compatible store by their SHA-256, with errors that say what to do.

What the store answers is never repeated but for its error code: its texts have ids of keys and signed requests in them.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from deepwell.errors import StorageError, StorageUnavailable
from deepwell.storage.blobs.place import BlobPlace, read_credentials

if TYPE_CHECKING:
    from obstore.store import S3Credential, S3Store

__all__ = ["BlobsUnavailable", "Bucket", "Stored"]

_OWNER: Final = "deepwell-owner"
_OWNER_BYTES: Final = 64
_NAME: Final = re.compile(r"([0-9a-f]{2})/(\1[0-9a-f]{62})")
_PART_BYTES: Final = 16 << 20
_PARTS_AT_ONCE: Final = 4
_FRESH: Final = timedelta(minutes=5)
_CODE: Final = re.compile(r"<Code>([A-Za-z0-9]{1,64})</Code>")
_STATUS: Final = re.compile(r"status code: (\d{3})")
_REFUSED: Final = frozenset(
    {"AccessDenied", "ExpiredToken", "InvalidAccessKeyId", "InvalidToken", "SignatureDoesNotMatch"}
)
_OF_THE_MACHINE: Final = "://169.254."  # where a cloud tells its machines credentials
_MOST_OBJECTS: Final = 5_000_000
_PATIENCE_S: Final = 60.0
_LEAST_PER_S: Final = 16 << 10
"""Bytes a second, on average after `_PATIENCE_S`: the threads that read are few, and others wait for them."""
_NOBODY: Final = "http://127.0.0.1:1"
_ELSEWHERE: Final = ("AWS_WEB_IDENTITY_TOKEN_FILE", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
"""Variables with which requests have to reach another host than the store's."""


class BlobsUnavailable(StorageUnavailable):
    """Raised when the object store of the blobs does not answer, or not as it should."""

    code = "blobs_unavailable"
    retry_after = 5


@dataclass(frozen=True, slots=True)
class Stored:
    """One object. `placed_at` is in Unix seconds."""

    sha256: str
    bytes: int
    placed_at: float


class Bucket:
    """The objects of one place. Its methods block, so call them in a thread; a connection is made by the first.

    Every object is sent with its SHA-256, in parts if it is large, and appears as a whole or not at all.
    """

    def __init__(self, place: BlobPlace) -> None:
        from obstore.store import S3Store

        self.shown = place.shown
        options: dict[str, Any] = {"checksum_algorithm": "sha256"}
        options |= {"region": place.region} if place.region is not None else {}
        if place.endpoint is not None:
            options["endpoint"] = place.endpoint.rstrip("/")
        if (file := place.credentials) is not None:
            options["credential_provider"] = lambda: _credential(file)

        def opened(retries: int, answer_s: float) -> S3Store:
            # A store that trickles is left after `timeout`, one that is silent after `read_timeout`.
            client: Any = {
                "allow_http": (place.endpoint or "").startswith("http://"),
                "connect_timeout": timedelta(seconds=min(5.0, answer_s)),
                "read_timeout": timedelta(seconds=answer_s),
                "timeout": timedelta(hours=1) if retries else timedelta(seconds=answer_s),
                **_kept_at(place, os.environ),
            }
            return S3Store(
                place.bucket,
                prefix=place.prefix or None,
                client_options=client,
                retry_config={
                    "max_retries": retries,
                    "retry_timeout": timedelta(seconds=30),
                    "backoff": {
                        "init_backoff": timedelta(milliseconds=100),
                        "max_backoff": timedelta(seconds=2),
                        "base": 2,
                    },
                },
                **options,
            )

        # Large bytes take their time, questions do not, and others wait for deletions.
        self._store, self._asked, self._hasty = opened(3, 60.0), opened(1, 5.0), opened(0, 2.0)

    def claim(self, owner: str) -> None:
        """Writes the owner into the bucket, if it has none.

        Raises:
            StorageError: it has another one, whose files a sweep would take for nobody's.
            BlobsUnavailable: the store does not answer.
        """
        import obstore
        from obstore.exceptions import AlreadyExistsError

        with self._explained(), suppress(AlreadyExistsError):
            try:
                self._owner(self._asked)
            except FileNotFoundError:
                obstore.put(self._asked, _OWNER, owner.encode(), mode="create")
        with self._explained():
            found = self._owner(self._asked)
        if found != owner:
            raise self.foreign()

    def owner(self) -> str | None:
        """Returns the id of the database that the bucket belongs to; None: it belongs to none yet. Nothing is written.

        Raises:
            BlobsUnavailable: there is no bucket, or the store refuses, or it does not answer within two seconds.
        """
        try:
            with self._explained(missing=False):
                return self._owner(self._hasty)
        except FileNotFoundError:
            return None

    def foreign(self) -> StorageError:
        """Returns the error of a bucket that belongs to another database."""
        return StorageError.of("blobs_foreign", place=self.shown, object=_OWNER)

    def _owner(self, store: S3Store) -> str:
        import obstore

        data = next(iter(obstore.get(store, _OWNER).stream(min_chunk_size=_OWNER_BYTES)), b"")
        return bytes(data)[:_OWNER_BYTES].decode(errors="replace")

    def bytes_of(self, sha256: str) -> int | None:
        """Returns the size of an object; None: there is none."""
        import obstore

        with self._explained():
            try:
                return obstore.head(self._asked, _name(sha256))["size"]
            except FileNotFoundError:
                return None

    def send(self, sha256: str, path: Path) -> None:
        """Makes an object of the bytes of a file."""
        import obstore

        with self._explained():
            obstore.put(
                self._store,
                _name(sha256),
                path,
                chunk_size=_PART_BYTES,
                max_concurrency=_PARTS_AT_ONCE,
            )

    def read(self, sha256: str) -> Iterator[bytes]:
        """Yields the bytes of an object, whatever they are.

        Raises:
            FileNotFoundError: there is none.
            BlobsUnavailable: the store does not answer, or trickles.
        """
        import obstore

        began, seen = time.monotonic(), 0
        with self._explained(missing=False):
            for data in obstore.get(self._store, _name(sha256)).stream(min_chunk_size=1):
                seen += len(data)
                if (took_s := time.monotonic() - began) > _PATIENCE_S and seen < took_s * _LEAST_PER_S:
                    reason = f"less than {_LEAST_PER_S >> 10} KiB a second"
                    raise BlobsUnavailable.of("blobs_unreachable", place=self.shown, reason=reason)
                yield bytes(data)

    def remove(self, sha256: str) -> None:
        """Deletes an object, if there is one. It waits two seconds at most, because others wait for its caller."""
        import obstore

        with self._explained():
            obstore.delete(self._hasty, _name(sha256))

    def list(self) -> Iterator[Stored]:
        """Yields all objects. What else lies in the bucket is left alone.

        Raises:
            BlobsUnavailable: the store does not answer, or its list does not end.
        """
        import obstore

        seen = 0
        with self._explained():
            for some in obstore.list(self._store, chunk_size=1000):
                if (seen := seen + len(some)) > _MOST_OBJECTS:
                    reason = f"its list has more than {_MOST_OBJECTS} objects"
                    raise BlobsUnavailable.of("blobs_unreachable", place=self.shown, reason=reason)
                for one in some:
                    if found := _NAME.fullmatch(one["path"]):
                        yield Stored(found[2], one["size"], one["last_modified"].timestamp())

    @contextmanager
    def _explained(self, *, missing: bool = True) -> Generator[None]:
        """Turns errors of the client into ours. `missing`: nothing else than the bucket can be missing."""
        from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError

        try:
            yield
        except (BaseError, FileNotFoundError, ValueError) as error:
            text = str(error)
            code = found[1] if (found := _CODE.search(text)) else ""
            if isinstance(error, FileNotFoundError) and not missing and code != "NoSuchBucket":
                raise FileNotFoundError(f"{self.shown} has no such object") from None
            if isinstance(error, FileNotFoundError) or code == "NoSuchBucket":
                raise BlobsUnavailable.of("blobs_no_bucket", place=self.shown) from None
            if _OF_THE_MACHINE in text:
                raise BlobsUnavailable.of("blobs_no_credentials", place=self.shown) from None
            status = f"status {found[1]}" if (found := _STATUS.search(text)) else ""
            reason = code or status
            if code in _REFUSED or isinstance(error, PermissionDeniedError | UnauthenticatedError):
                raise BlobsUnavailable.of(
                    "blobs_refused", place=self.shown, reason=reason or "no valid credentials"
                ) from None
            raise BlobsUnavailable.of(
                "blobs_unreachable", place=self.shown, reason=reason or "no connection, or no answer in time"
            ) from None


def _kept_at(place: BlobPlace, environ: Mapping[str, str]) -> dict[str, str]:
    """Returns the options by which requests to other hosts than that of the endpoint reach nobody.

    The client follows redirects and takes a session token along (obstore 0.12 has no option against it), so other hosts
    are left to a proxy where nobody listens. Amazon's own hosts, and what a proxy of the environment carries, are not bound.
    """
    host = urlsplit(place.endpoint or "").hostname
    named = any(environ.get(one) or environ.get(one.lower()) for one in _ELSEWHERE)
    if host is None or named:
        return {}
    own = (
        "" if place.credentials is not None else ",169.254.0.0/16"
    )  # where a cloud tells its machines credentials
    return {"proxy_url": _NOBODY, "proxy_excludes": f"{host}{own}"}


def _name(sha256: str) -> str:
    return f"{sha256[:2]}/{sha256}"


def _credential(file: Path) -> S3Credential:
    """Reads the credentials again every few minutes, so that new ones need no restart."""
    key, secret, token = read_credentials(file)
    return {
        "access_key_id": key,
        "secret_access_key": secret,
        "token": token,
        "expires_at": datetime.now(UTC) + _FRESH,
    }
