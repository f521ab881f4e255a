"""Images of strangers become small squares of pixels, or an error that names the fault."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.media.images.pictures import encoded_as, image_of, png_header

from deepwell.errors import InvalidFile, UnsupportedFile
from deepwell.media.images.decode import LOOK, MOST_PIXELS, Picture, read_image


def read(tmp_path: Path, data: bytes) -> Picture:
    path = tmp_path / "file"
    path.write_bytes(data)
    return read_image(path, 64, 256)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF"])
def test_four_formats_are_read(tmp_path: Path, format: str) -> None:
    found = read(tmp_path, encoded_as(image_of(), format))
    assert (found.width, found.height) == (96, 96)
    assert found.full.shape == (256, 256, 3) and found.small.shape == (64, 64, 3)
    assert found.look.shape == (LOOK, LOOK, 3) and found.opacity.min() == 255
    assert found.small[32, 8, 0] > 230 and found.small[32, 56, 2] > 230


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA", "I;16"])
def test_every_mode_is_read(tmp_path: Path, mode: str) -> None:
    image = image_of()
    if mode == "I;16":
        image = Image.fromarray(np.full((96, 96), 0x8000, np.uint16))
    found = read(tmp_path, encoded_as(image.convert(mode), "PNG"))
    assert found.full.dtype == np.uint8
    if mode == "I;16":
        assert abs(int(found.full[0, 0, 0]) - 128) <= 1


def test_an_image_that_is_no_square_gets_bars_in_the_colour_of_its_border(tmp_path: Path) -> None:
    found = read(tmp_path, encoded_as(Image.new("RGB", (200, 50), (10, 200, 30)), "PNG"))
    assert (found.width, found.height) == (200, 50)
    assert np.abs(found.full.astype(int) - (10, 200, 30)).max() <= 1
    assert np.ptp(read(tmp_path, encoded_as(image_of(1, 4000), "PNG")).opacity) == 0


def test_transparent_pixels_are_told(tmp_path: Path) -> None:
    image = image_of(mode="RGBA")
    image.paste((0, 0, 0, 0), (0, 0, 48, 96))
    found = read(tmp_path, encoded_as(image, "PNG"))
    assert found.small_opacity[32, 4] == 0 and found.small_opacity[32, 60] == 255
    assert tuple(found.full[10, 10]) == (255, 255, 255)


@pytest.mark.parametrize(("orientation", "size", "red"), [(6, (50, 100), (8, 32)), (3, (100, 50), (32, 56))])
def test_photographs_are_turned_as_their_camera_says(
    tmp_path: Path, orientation: int, size: tuple[int, int], red: tuple[int, int]
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = read(tmp_path, encoded_as(image_of(100, 50), "JPEG", exif=exif, quality=95))
    assert (found.width, found.height) == size
    row, column = red
    assert found.small[row, column, 0] > 200


def test_of_a_gif_the_first_frame_counts(tmp_path: Path) -> None:
    frames = [image_of(), Image.new("RGB", (96, 96), "white")]
    data = encoded_as(frames[0], "GIF", save_all=True, append_images=frames[1:], loop=0)
    assert read(tmp_path, data).small[32, 8, 0] > 230


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"<svg xmlns='http://www.w3.org/2000/svg'><script>x()</script></svg>", "SVG"),
        (b"<?xml version='1.0'?><!-- a --><SVG></SVG>", "SVG"),
        (b"hello", "no image in a known format"),
        (b"BM" + bytes(100), "no image in a known format"),
        (b"%PDF-1.4", "no image in a known format"),
    ],
)
def test_other_formats_are_refused_by_name(tmp_path: Path, data: bytes, said: str) -> None:
    with pytest.raises(UnsupportedFile, match=said):
        read(tmp_path, data)


def test_what_is_broken_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidFile, match="empty file"):
        read(tmp_path, b"")
    whole = encoded_as(image_of(), "PNG")
    with pytest.raises((InvalidFile, UnsupportedFile)):
        read(tmp_path, whole[:60])
    noise = np.random.default_rng(0).integers(0, 255, (96, 96, 3)).astype(np.uint8)
    jpeg = encoded_as(Image.fromarray(noise), "JPEG")
    with pytest.raises(InvalidFile, match="damaged"):
        read(tmp_path, jpeg[: len(jpeg) // 2])


@pytest.mark.parametrize("size", [(MOST_PIXELS, 2), (30_000, 30_000), (2**31 - 1, 2**31 - 1)])
def test_a_size_that_a_header_declares_is_checked_before_a_pixel_is_read(
    tmp_path: Path, size: tuple[int, int]
) -> None:
    with pytest.raises(InvalidFile, match="more than 40 million"):
        read(tmp_path, png_header(*size))
