"""The text in pictures: what is read, and what hostile files meet, in a process and in the child."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.needs import NO_OCR

from deepwell.errors import InvalidFile, MissingDependency, UnsupportedFile
from deepwell.knowledge.documents import MediaPlace
from deepwell.knowledge.parse.ocr import PageReader
from deepwell.knowledge.parse.picture import read_picture
from deepwell.knowledge.parse.process import ParseProcess


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Stands for the extra: the reader says the colour of the first pixel, red first, and notes the shapes that it sees."""
    shapes: list[tuple[int, ...]] = []

    def text_of(self: PageReader, pixels: np.ndarray) -> str:
        shapes.append(pixels.shape)
        assert pixels.dtype == np.uint8
        return " ".join(map(str, pixels[0, 0, ::-1]))

    monkeypatch.setattr("deepwell.knowledge.parse.picture.ocr_installed", lambda: True)
    monkeypatch.setattr(PageReader, "text_of", text_of)
    return shapes


def saved(folder: Path, image: Image.Image, format: str = "PNG") -> Path:
    path = folder / "picture"
    image.save(path, format)
    return path


@pytest.mark.parametrize(
    ("mode", "colour", "said"),
    [
        ("RGB", (200, 30, 40), "200 30 40"),
        ("RGBA", (200, 30, 40, 0), "255 255 255"),  # transparent is white
        ("L", 7, "7 7 7"),
        ("P", 0, "0 0 0"),
    ],
)
def test_a_picture_is_read_as_it_is_seen(
    shown: list[tuple[int, ...]], tmp_path: Path, mode: str, colour: int, said: str
) -> None:
    found = read_picture(saved(tmp_path, Image.new(mode, (40, 20), colour)))
    assert (found.text, found.media_type, shown) == (said, "image/png", [(20, 40, 3)])
    assert found.sections[0].place.media == MediaPlace("picture")


@pytest.mark.parametrize(
    ("format", "type"), [("JPEG", "image/jpeg"), ("WEBP", "image/webp"), ("GIF", "image/gif")]
)
def test_every_format_is_read(shown: list[tuple[int, ...]], tmp_path: Path, format: str, type: str) -> None:
    assert read_picture(saved(tmp_path, Image.new("RGB", (8, 8)), format)).media_type == type


def test_a_large_picture_is_read_smaller(shown: list[tuple[int, ...]], tmp_path: Path) -> None:
    read_picture(saved(tmp_path, Image.new("L", (6000, 300))))
    assert shown == [(205, 4096, 3)]


def test_no_text_is_an_empty_document(
    shown: list[tuple[int, ...]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PageReader, "text_of", lambda self, pixels: "")
    assert read_picture(saved(tmp_path, Image.new("L", (8, 8)))).text == ""


def bomb(width: int, height: int) -> bytes:
    """A PNG that declares a size."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1 << 20)))


@pytest.mark.parametrize(
    ("data", "error", "says"),
    [
        (bomb(30_000, 30_000), InvalidFile, "30000x30000"),
        (bomb(200, 200)[:60], InvalidFile, "damaged"),
        (b"\x89PNG\r\n\x1a\n" + bytes(99), InvalidFile, "damaged"),
        (b"GIF89a\xff\xff\xff\xff", InvalidFile, "65535x65535|damaged"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", UnsupportedFile, "no image"),
        (b"RIFF\x00\x00\x00\x00WAVEfmt ", UnsupportedFile, "no image"),
        (b"\x00\x00\x00\x20ftypavif", InvalidFile, "damaged"),
        (b"", UnsupportedFile, "no image"),
    ],
)
def test_hostile_pictures_are_refused(
    shown: list[tuple[int, ...]], tmp_path: Path, data: bytes, error: type[Exception], says: str
) -> None:
    path = tmp_path / "picture"
    path.write_bytes(data)
    with pytest.raises(error, match=says):
        read_picture(path)
    assert not shown


@pytest.mark.needs(NO_OCR)
async def test_without_the_extra_the_child_says_how_to_bring_it(tmp_path: Path) -> None:
    parser = ParseProcess()
    try:
        with pytest.raises(MissingDependency, match=r"deepwell\[ocr\]"):
            await parser.read_picture("t", saved(tmp_path, Image.new("L", (8, 8))))
        path = tmp_path / "a.txt"
        path.write_text("A text goes on as before.")
        assert (await parser.parse("t", path, "a.txt")).text == "A text goes on as before."
    finally:
        await parser.close()
