"""Content credentials of drawn images: signed in the confined process, valid, and honest about what was drawn."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import c2pa
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from PIL import Image
from tests.media.images.pictures import drawing_model, encoded_as, image_of
from tests.media.images.test_process import ASKED, drawn

from deepwell.errors import InvalidRequest
from deepwell.media.images.process import Painter
from deepwell.media.images.provenance import Credential
from deepwell.media.images.reader import ImageReader

_SIGNING = x509.KeyUsage(True, False, False, False, False, False, False, False, False)
_ISSUING = x509.KeyUsage(False, False, False, False, False, True, True, False, False)


def certificate(name: str, key: Any, issuer: str, issuing: Any, *, ca: bool) -> x509.Certificate:
    def named(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, text)])

    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(named(name))
        .issuer_name(named(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=30))
        .add_extension(x509.BasicConstraints(ca, None), critical=True)
        .add_extension(_ISSUING if ca else _SIGNING, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuing.public_key()), critical=False
        )
    )
    if not ca:
        made = made.add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), critical=False
        )
    return made.sign(issuing, hashes.SHA256())


@pytest.fixture
def credential(tmp_path: Path) -> Credential:
    root, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    chain = [
        certificate("tester", key, "root", root, ca=False),
        certificate("root", root, "root", root, ca=True),
    ]
    pem = serialization.Encoding.PEM
    (tmp_path / "chain.pem").write_bytes(b"".join(one.public_bytes(pem) for one in chain))
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (tmp_path / "key.pem").write_bytes(secret)
    return Credential(tmp_path / "chain.pem", tmp_path / "key.pem")


def told(data: bytes, format: str) -> dict[str, Any]:
    return json.loads(c2pa.Reader(f"image/{format}", io.BytesIO(data)).json())


@pytest.mark.parametrize("format", ["png", "jpeg", "webp"])
async def test_drawn_images_are_signed(tmp_path: Path, credential: Credential, format: Any) -> None:
    painter = Painter(drawing_model(tmp_path / "draw"), None, None, credential)
    data = (await drawn(painter, replace(ASKED, format=format, label='{"AIGC": {}}')))[-1].data
    await painter.close()
    found = told(data, format)
    assert found["validation_state"] == "Valid"
    manifest = found["manifests"][found["active_manifest"]]
    assert manifest["signature_info"]["issuer"] == "tester" and "trainedAlgorithmicMedia" in json.dumps(
        manifest
    )
    with Image.open(io.BytesIO(data)) as image:
        assert image.size == (256, 256) and b"TC260:AIGC" in image.info["xmp"]


async def test_a_changed_image_says_so_and_one_that_was_touched_is_not_valid(
    tmp_path: Path, credential: Credential
) -> None:
    (tmp_path / "a.png").write_bytes(encoded_as(image_of(), "PNG"))
    painter, reader = Painter(drawing_model(tmp_path / "draw"), None, None, credential), ImageReader()
    picture = await reader.read("t", tmp_path / "a.png", 64, 256)
    data = (await drawn(painter, replace(ASKED, picture=picture, strength=0.5)))[-1].data
    await painter.close()
    await reader.close()
    assert "compositeWithTrainedAlgorithmicMedia" in json.dumps(told(data, "png"))
    place = len(data) - 200
    touched = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
    assert told(touched, "png")["validation_state"] == "Invalid"


async def test_a_credential_that_does_not_sign_is_named(tmp_path: Path, credential: Credential) -> None:
    with pytest.raises(InvalidRequest, match="set both"):
        Credential.of(credential.certificate, None)
    assert Credential.of(None, None) is None
    credential.key.write_bytes(b"nothing")
    painter = Painter(drawing_model(tmp_path / "draw"), None, None, credential)
    with pytest.raises(InvalidRequest, match="cannot sign images"):
        await painter.start("t")
    await painter.close()
