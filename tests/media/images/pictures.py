"""Small images in memory, and a model with random weights."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from deepwell.media.images.flow import FlowConfig, FlowModel
from deepwell.media.images.options import ImageModel

__all__ = ["drawing_model", "encoded_as", "image_of", "png_header", "unsafe_image"]


def drawing_model(folder: Path) -> ImageModel:
    FlowModel.random(FlowConfig(width=32, depth=1, heads=2), 1).write(folder)
    return ImageModel("toy-draw", folder)


def image_of(width: int = 96, height: int = 96, *, mode: str = "RGB") -> Image.Image:
    """Red on the left half, blue on the right."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, : width // 2, 0] = pixels[:, width // 2 :, 2] = 255
    return Image.fromarray(pixels).convert(mode)


def encoded_as(image: Image.Image, format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG file that declares a size, and has nothing in it."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def unsafe_image() -> Image.Image:
    """Two round shades of one colour, which open_nsfw takes for unsafe with 0.836, in its publisher's program too."""
    rows, columns = np.mgrid[0:256, 0:256] / 255.0

    def shade(column: float) -> Any:
        return np.sqrt(np.clip(1 - ((columns - column) ** 2 + (rows - 0.5) ** 2) / 0.0625, 0, 1))

    height = shade(0.3) + shade(0.7)
    pixels = np.stack([150 + 90 * height, 100 + 80 * height, 80 + 70 * height], -1)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
