"""Certificates of a mesh without Kubernetes: an authority, and one identity for the edge and for each release, by `openssl`."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from deepwell.errors import InvalidRequest, MissingDependency

__all__ = ["TRUST_DOMAIN", "Authority", "Identity"]

TRUST_DOMAIN: Final = "spiffe://deepwell"
"""Prefix of every identity: `spiffe://deepwell/edge`, `spiffe://deepwell/current` and so on."""
_KEY: Final = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc")


@dataclass(frozen=True, slots=True)
class Identity:
    """Files of one identity.

    Attributes:
        uri: name in the certificate.
        certificate: PEM file of the certificate.
        key: PEM file of its private key, which only its owner may read.
        authority: PEM file of the authority that peers are checked by.
    """

    uri: str
    certificate: Path
    key: Path
    authority: Path


class Authority:
    """An authority of its own folder. It signs identities; whoever holds its key can be anybody in the mesh.

    Args:
        folder: where the certificate and the key lie; both are made on first use.
        days: days for which certificates are valid.

    Raises:
        MissingDependency: openssl is not installed.
        InvalidRequest: openssl refuses.
    """

    def __init__(self, folder: Path, *, days: int = 90) -> None:
        self._folder = folder
        self._days = days
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not self.certificate.is_file():
            self._make(
                "ca",
                "/CN=Deepwell mesh",
                ("basicConstraints=critical,CA:TRUE", "keyUsage=critical,keyCertSign"),
            )

    @property
    def certificate(self) -> Path:
        """Returns the PEM file that peers trust."""
        return self._folder / "ca.crt"

    def identity(self, name: str) -> Identity:
        """Signs a new certificate for a name, in place of the one before.

        Args:
            name: last part of the URI, such as `edge` or the name of a release.
        """
        uri = f"{TRUST_DOMAIN}/{name}"
        signed = ("-CA", str(self.certificate), "-CAkey", str(self._folder / "ca.key"))
        uses = ("basicConstraints=critical,CA:FALSE", "extendedKeyUsage=serverAuth,clientAuth")
        self._make(name, f"/CN={name}", (f"subjectAltName=URI:{uri}", *uses), *signed)
        return self.known(name)

    def known(self, name: str) -> Identity:
        """Returns the files of a name that was signed before."""
        uri = f"{TRUST_DOMAIN}/{name}"
        return Identity(uri, self._folder / f"{name}.crt", self._folder / f"{name}.key", self.certificate)

    def _make(self, name: str, subject: str, extensions: tuple[str, ...], *signed: str) -> None:
        if shutil.which("openssl") is None:
            raise MissingDependency(
                "openssl is not installed", fix="apt-get install --no-install-recommends openssl"
            )
        key, certificate = self._folder / f"{name}.key", self._folder / f"{name}.crt"
        # Made before openssl writes, so that nobody else can ever read it.
        key.unlink(missing_ok=True)
        os.close(os.open(key, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        added = [part for one in extensions for part in ("-addext", one)]
        command = [
            "openssl",
            "req",
            "-x509",
            *_KEY,
            "-days",
            str(self._days),
            "-subj",
            subject,
            *added,
            *signed,
        ]
        done = subprocess.run(
            [*command, "-keyout", str(key), "-out", str(certificate)],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise InvalidRequest(
                f"openssl makes no certificate for {name!r}: {done.stderr.strip()[-300:]}",
                fix="update openssl to 3.0 or newer",
            )
