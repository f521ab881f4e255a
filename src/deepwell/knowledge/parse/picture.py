"""`read_picture`: the text that stands in a picture, by optical character recognition. It belongs into a confined child."""

from __future__ import annotations

import os
import warnings
from typing import BinaryIO, Final

from deepwell.errors import DeepwellError, InvalidFile, MissingDependency, UnsupportedFile
from deepwell.knowledge.documents import Document, MediaPlace, Place
from deepwell.knowledge.media.kind import SNIFFED, media_kind, media_type
from deepwell.knowledge.parse.builder import DocumentBuilder
from deepwell.knowledge.parse.ocr import PageReader, ocr_installed

__all__ = ["MOST_PICTURE_BYTES", "MOST_PIXELS", "read_picture"]

MOST_PICTURE_BYTES: Final = 50 << 20
MOST_PIXELS: Final = 40_000_000
"""Most pixels of a picture, by its header: 40 million take 160 MB."""

_FORMATS: Final = ("PNG", "JPEG", "WEBP", "GIF")
_SIDE: Final = 4096  # larger pictures are read at this size


def read_picture(descriptor: int) -> Document:
    """Returns the text of a picture in an open file, which is closed, as a document, which may be empty.

    Raises:
        UnsupportedFile: the file is no picture of the formats.
        InvalidFile: it is damaged or too large.
        MissingDependency: the extra `ocr` is not installed.
    """
    if not ocr_installed():
        raise MissingDependency.of("picture_ocr_missing")
    with open(descriptor, "rb") as file:
        kind, name = media_kind(head := file.read(SNIFFED)), media_type(head)
        if kind != "picture":
            raise UnsupportedFile.of("image_unknown")
        builder = DocumentBuilder(name)
        builder.add(_text(file), Place(media=MediaPlace("picture")))
    return builder.finish() if len(builder) else Document("", (), name)


def _text(file: BinaryIO) -> str:
    import numpy as np
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = None  # the limit is `MOST_PIXELS`, and an error
    try:
        size = file.seek(0, os.SEEK_END)
        if size > MOST_PICTURE_BYTES:
            raise InvalidFile.of("image_bytes", megabytes=MOST_PICTURE_BYTES >> 20)
        with warnings.catch_warnings(), Image.open(file, formats=_FORMATS) as image:
            warnings.simplefilter("ignore")  # about metadata that nobody reads
            if image.width * image.height > MOST_PIXELS:
                most = MOST_PIXELS // 1_000_000
                raise InvalidFile.of("image_pixels", width=image.width, height=image.height, most=most)
            image.draft("RGB", (_SIDE, _SIDE))
            image.thumbnail((_SIDE, _SIDE))
            flat = Image.new("RGBA", image.size, (255, 255, 255, 255))
            flat.alpha_composite(image.convert("RGBA"))
            # Blue first, as the loader of the recognition has it.
            pixels = np.asarray(flat.convert("RGB"))[:, :, ::-1]
    except (DeepwellError, MemoryError, ImportError):
        raise
    except Exception as error:  # the library raises whatever a broken file makes it
        raise InvalidFile.of("image_damaged", reason=f"{type(error).__name__}: {str(error)[:200]}") from None
    return PageReader().text_of(pixels)
