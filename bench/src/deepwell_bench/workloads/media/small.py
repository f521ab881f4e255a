"""Small sound files, no two of them alike: an image, a document, a recording."""

from __future__ import annotations

import base64
import random
import struct
import wave
import zlib
from io import BytesIO
from typing import Any

import numpy as np

__all__ = ["pdf_part", "png_part", "tone"]


def png_part() -> dict[str, Any]:
    """Returns the part of a message with an image that nobody has sent before."""
    return {"type": "image_url", "image_url": {"url": _data_url("image/png", _png(random.getrandbits(30)))}}


def pdf_part() -> dict[str, Any]:
    """Returns the part of a message with a document that nobody has sent before."""
    data = _data_url("application/pdf", _pdf(random.getrandbits(30)))
    return {"type": "file", "file": {"filename": "a.pdf", "file_data": data}}


def _png(seed: int) -> bytes:
    """Returns an image of 64 by 64 pixels."""
    noise = random.Random(seed)  # noqa: S311
    rows = b"".join(b"\0" + noise.randbytes(64 * 3) for _ in range(64))

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 64, 64, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def _pdf(seed: int) -> bytes:
    """Returns a document of one page that says a number."""
    text = f"BT /F1 12 Tf 20 100 Td (Number {seed}) Tj ET".encode()
    objects = (
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"<</Type/Pages/Kids[3 0 R]/Count 1>>",
        b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 200 200]/Contents 4 0 R/Resources<</Font<</F1 5 0 R>>>>>>",
        b"<</Length %d>>stream\n%s\nendstream" % (len(text), text),
        b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>",
    )
    body = b"".join(b"%d 0 obj%s endobj\n" % (number, one) for number, one in enumerate(objects, 1))
    return b"%PDF-1.4\n" + body + b"trailer<</Root 1 0 R>>"


def tone(seconds: float) -> bytes:
    """Returns a recording of a tone in noise that nobody has sent before, 16 kHz."""
    times = np.arange(round(seconds * 16_000)) / 16_000
    samples = 0.2 * np.sin(2 * np.pi * 440 * times) + np.random.default_rng().normal(0, 0.01, len(times))
    held = BytesIO()
    with wave.open(held, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes((samples * 32767).astype("<i2").tobytes())
    return held.getvalue()


def _data_url(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
