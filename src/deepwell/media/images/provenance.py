"""`ContentSigner`: signs drawn images with content credentials (C2PA 2), by a certificate and a key of the operator.

The key stays in the child that draws. Nothing is sent to a time stamping service, because that child has no sockets.
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from deepwell.errors import InvalidRequest
from deepwell.media.images.encode import MEDIA_TYPES, ImageFormat
from deepwell.version import deepwell_version

__all__ = ["ContentSigner", "Credential"]

_SOURCES: Final = "http://cv.iptc.org/newscodes/digitalsourcetype/"
_DRAWN: Final = f"{_SOURCES}trainedAlgorithmicMedia"
_CHANGED: Final = f"{_SOURCES}compositeWithTrainedAlgorithmicMedia"
_CURVES: Final = {"secp256r1": "es256", "secp384r1": "es384", "secp521r1": "es512"}


@dataclass(frozen=True, slots=True)
class Credential:
    """The files of a credential, in PEM: the certificate with those that signed it, and the private key."""

    certificate: Path
    key: Path

    @classmethod
    def of(cls, certificate: Path | None, key: Path | None) -> Credential | None:
        """Returns the credential of two settings; None: neither is set.

        Raises:
            InvalidRequest: one is set, and the other is not.
        """
        if certificate is None and key is None:
            return None
        if certificate is None or key is None:
            raise InvalidRequest.of("image_credential_half")
        return cls(certificate, key)

    def read(self) -> tuple[str, bytes, bytes]:
        """Returns the path of the certificate, the certificate and the key.

        Raises:
            InvalidRequest: a file cannot be read.
        """
        try:
            return str(self.certificate), self.certificate.read_bytes(), self.key.read_bytes()
        except OSError as error:
            raise _unusable(str(self.certificate), error.strerror or str(error)) from None


class ContentSigner:
    """Signs images.

    Args:
        file: path of the certificate, for errors.

    Raises:
        InvalidRequest: the files cannot be read, or do not sign.
        ImportError: c2pa-python is not installed.
    """

    def __init__(self, file: str, certificate: bytes, key: bytes) -> None:
        import c2pa

        try:
            info = c2pa.C2paSignerInfo(
                alg=_algorithm(key).encode(), sign_cert=certificate, private_key=key, ta_url=None
            )
            self._signer: Any = c2pa.Signer.from_info(info)
        except Exception as error:  # the library's own, and those of cryptography
            raise _unusable(file, str(error)[:200]) from None

    def signed(self, data: bytes, format: ImageFormat, *, changed: bool) -> bytes:
        """Returns the file of an image with its credential. `changed`: somebody's image was a part of it."""
        import c2pa

        action = {"action": "c2pa.created", "digitalSourceType": _CHANGED if changed else _DRAWN}
        manifest = {
            "claim_generator_info": [{"name": "Deepwell", "version": deepwell_version()}],
            "assertions": [{"label": "c2pa.actions.v2", "data": {"actions": [action]}}],
        }
        found = io.BytesIO()
        builder = c2pa.Builder(json.dumps(manifest))
        builder.sign(self._signer, MEDIA_TYPES[format], io.BytesIO(data), found)
        return found.getvalue()


def _algorithm(secret: bytes) -> str:
    """Returns C2PA's name of the algorithm that a private key signs with."""
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    key = load_pem_private_key(secret, None)
    if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name in _CURVES:
        return _CURVES[key.curve.name]
    if isinstance(key, rsa.RSAPrivateKey):
        return "ps256"
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return "ed25519"
    raise ValueError("the key is of a kind that C2PA does not know")


def _unusable(certificate: str, reason: str) -> InvalidRequest:
    return InvalidRequest.of("image_credential_unusable", file=certificate, reason=reason)
