"""Labels of generated images: the mark that people see, and the metadata that programs read."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.media.images.pictures import image_of

from deepwell.media.images.encode import encoded, finished
from deepwell.media.images.labels import marked
from deepwell.safety.labels import AigcLabel, read_png_label

LABEL = AigcLabel.first("tester", "image-1").text()


@pytest.mark.parametrize("size", [(256, 256), (512, 512), (1024, 1024), (1536, 1024), (1024, 1536)])
def test_the_mark_is_a_twentieth_of_the_shortest_side_high_and_in_the_lower_right_corner(
    size: tuple[int, int],
) -> None:
    plain = Image.new("RGB", size, (128, 128, 128))
    shown = np.asarray(marked(plain))
    rows, columns = np.nonzero((shown > 220).all(axis=2))
    assert np.ptp(rows) + 1 >= 0.05 * min(size)
    assert rows.min() > size[1] * 0.85 and columns.min() > size[0] * 0.6
    assert np.asarray(plain).max() == 128, "the image itself is left alone"


@pytest.mark.parametrize("format", ["png", "jpeg", "webp"])
def test_the_label_is_in_the_metadata_of_every_format(format: Any) -> None:
    data = encoded(image_of(256, 256), format, 90, LABEL, mark=True)
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        assert image.format == format.upper() and image.size == (256, 256)
        found: bytes = image.info["xmp"]
    assert b"http://www.tc260.org.cn/ns/AIGC/1.0/" in found and b'"ProduceID":"image-1"' in found
    if format == "png":
        label = read_png_label(data)
        assert label is not None and label.producer == "tester"


def test_without_a_label_and_a_mark_there_is_neither() -> None:
    data = encoded(image_of(256, 256), "png", 100, "", mark=False)
    with Image.open(io.BytesIO(data)) as image:
        assert "xmp" not in image.info and np.array_equal(np.asarray(image), np.asarray(image_of(256, 256)))
    assert b"AIGC" not in data


def test_compression_makes_files_smaller() -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (256, 256, 3)).astype(np.uint8))
    for format in ("jpeg", "webp"):
        sizes = [len(encoded(noise, format, one, "", mark=False)) for one in (0, 50, 100)]
        assert sizes == sorted(sizes) and sizes[0] < sizes[1]


def test_what_stays_of_the_original_is_the_original() -> None:
    original = np.asarray(image_of(256, 256))
    stays = np.zeros((256, 256), np.uint8)
    stays[:, :128] = 255
    found = np.asarray(finished(np.zeros((64, 64, 3), np.float32), (256, 256), (original, stays)))
    assert np.array_equal(found[:, :128], original[:, :128])
    assert np.abs(found[:, 128:].astype(int) - 128).max() <= 1
