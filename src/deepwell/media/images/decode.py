"""`read_image` and `read_view`: read an image of a stranger as few pixels. They run Pillow, and belong into a confined child.

Four formats are read: PNG, JPEG, WebP and GIF, of which the first frame counts. The size that a header declares is checked
before a pixel is decoded. SVG is a program and no image: it is refused.
"""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from deepwell.errors import DeepwellError, InvalidFile, UnsupportedFile

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

__all__ = [
    "FORMATS",
    "LOOK",
    "MOST_BYTES",
    "MOST_PIXELS",
    "Picture",
    "View",
    "look_of",
    "page_of",
    "prepare",
    "read_image",
    "read_view",
]

FORMATS: Final = ("PNG", "JPEG", "WEBP", "GIF")
MOST_BYTES: Final = 50 << 20
"""Largest file, as with OpenAI."""
MOST_PIXELS: Final = 40_000_000
"""Most pixels of an image, by its header: 40 million take 160 MB."""
LOOK: Final = 256
"""Side of the square that the safety model is shown, in pixels."""

PAGE_DPI: Final = 200.0
"""Resolution of a page that an image becomes: that at which scanned pages are read."""

_SNIFFED: Final = 4096
_ORIENTATION: Final = 0x0112
_TURNS: Final = {
    2: 0,
    3: 3,
    4: 1,
    5: 5,
    6: 4,
    7: 6,
    8: 2,
}  # EXIF's orientation: a constant of Pillow's Transpose
_SWAPPING: Final = (2, 4, 5, 6)  # of those, the ones that swap width and height
_WITH_ALPHA: Final = ("RGBA", "LA", "PA", "La", "RGBa")


@dataclass(frozen=True, slots=True)
class Picture:
    """An image, made square by bars in the colour of its border, at two sizes.

    Attributes:
        width, height: size of the image as it is seen, in pixels.
        full: uint8 [out, out, 3], on white where it is transparent.
        opacity: uint8 [out, out]; 0 is transparent.
        small: uint8 [draw, draw, 3], the same.
        small_opacity: uint8 [draw, draw].
        look: uint8 [LOOK, LOOK, 3], the whole image without bars.
    """

    width: int
    height: int
    full: NDArray[np.uint8]
    opacity: NDArray[np.uint8]
    small: NDArray[np.uint8]
    small_opacity: NDArray[np.uint8]
    look: NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class View:
    """An image as it is seen, at a small size.

    Attributes:
        width, height: its own size, in pixels.
        pixels: uint8 [h, w, 3], on white where it is transparent.
        look: uint8 [LOOK, LOOK, 3], the whole image without bars.
    """

    width: int
    height: int
    pixels: NDArray[np.uint8]
    look: NDArray[np.uint8]


def prepare() -> None:
    """Loads the libraries."""
    import numpy as np  # noqa: F401
    from PIL import GifImagePlugin, Image, JpegImagePlugin, PngImagePlugin, WebPImagePlugin  # noqa: F401

    Image.MAX_IMAGE_PIXELS = None  # the limit is `MOST_PIXELS`, and an error
    Image.preinit()


def read_image(source: Path | int, draw: int, out: int) -> Picture:
    """Returns the image of a file.

    Args:
        source: the file, or its descriptor, which is closed.
        draw: side of the square that the model draws.
        out: side of the square that is asked for.

    Raises:
        UnsupportedFile: the file is in none of the formats.
        InvalidFile: it is empty, too large, or damaged.
        ImportError: Pillow is not installed.
    """
    prepare()
    with _read(), open(source, "rb") as file:  # noqa: PTH123
        if os.fstat(file.fileno()).st_size > MOST_BYTES:
            raise InvalidFile.of("image_bytes", megabytes=MOST_BYTES >> 20, param="image")
        return _pictured(*_decoded(file, out), draw, out)


def read_view(data: bytes, side: int) -> View:
    """Returns the image in bytes, its longer side at most `side` pixels. Raises as `read_image`."""
    prepare()
    with _read():
        if len(data) > MOST_BYTES:
            raise InvalidFile.of("image_bytes", megabytes=MOST_BYTES >> 20, param="image")
        return _viewed(*_decoded(io.BytesIO(data), side), side)


def page_of(data: bytes, side: int) -> bytes:
    """Returns the image in bytes as a PDF of one page, for programs that read scanned pages. Raises as `read_image`.

    Args:
        side: most pixels of its longer side.
    """
    prepare()
    with _read():
        if len(data) > MOST_BYTES:
            raise InvalidFile.of("image_bytes", megabytes=MOST_BYTES >> 20, param="image")
        image = _turned(*_decoded(io.BytesIO(data), side), side)[0]
        page = io.BytesIO()
        image.save(page, "PDF", resolution=PAGE_DPI, quality=90)
        return page.getvalue()


@contextmanager
def _read() -> Generator[None]:
    """Turns what Pillow raises into errors of the file."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about metadata that nobody reads
            yield
    except (DeepwellError, MemoryError, ImportError):
        raise
    except OSError as error:
        raise InvalidFile.of("image_damaged", reason=str(error)[:200], param="image") from None
    except Exception as error:  # the library raises whatever a broken file makes it
        reason = f"{type(error).__name__}: {str(error)[:200]}"
        raise InvalidFile.of("image_damaged", reason=reason, param="image") from None


def _decoded(file: BinaryIO, out: int) -> tuple[Image, tuple[int, int]]:
    """Returns the first image of a file, and the size that it has there: a JPEG may be decoded at a part of it."""
    from PIL import Image, UnidentifiedImageError

    head = file.read(_SNIFFED)
    if not head:
        raise InvalidFile.of("image_empty", param="image")
    if b"<svg" in head.lower() and not head.startswith((b"\x89PNG", b"\xff\xd8", b"RIFF", b"GIF8")):
        raise UnsupportedFile.of("image_svg", param="image")
    file.seek(0)
    try:
        image = Image.open(file, formats=FORMATS)
    except UnidentifiedImageError:
        raise UnsupportedFile.of("image_unknown", param="image") from None
    if image.width * image.height > MOST_PIXELS:
        raise InvalidFile.of(
            "image_pixels",
            width=image.width,
            height=image.height,
            most=MOST_PIXELS // 1_000_000,
            param="image",
        )
    size = image.size
    image.draft("RGB", (2 * out, 2 * out))
    image.load()
    return image, size


def _pictured(image: Image, size: tuple[int, int], draw: int, out: int) -> Picture:
    import numpy as np
    from PIL import Image as Images

    turn = _turn(image)
    image = _plain(image)
    scale = min(out / size[0], out / size[1])
    fitted = max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
    look = _on_white(image.resize((LOOK, LOOK), Images.Resampling.BILINEAR, reducing_gap=2.0))
    image = image.resize(fitted, Images.Resampling.LANCZOS, reducing_gap=3.0)
    if turn is not None:
        image, look = image.transpose(turn), look.transpose(turn)
        if turn in _SWAPPING:
            size = size[1], size[0]
    square = _squared(image, out)
    small = square.resize(
        (draw, draw), Images.Resampling.BOX if out % draw == 0 else Images.Resampling.LANCZOS
    )
    return Picture(
        size[0],
        size[1],
        np.asarray(_on_white(square)),
        np.asarray(square.getchannel("A")),
        np.asarray(_on_white(small)),
        np.asarray(small.getchannel("A")),
        np.asarray(look),
    )


def _viewed(image: Image, size: tuple[int, int], side: int) -> View:
    import numpy as np

    image, size = _turned(image, size, side)
    return View(*size, np.asarray(image), look_of(image))


def _turned(image: Image, size: tuple[int, int], side: int) -> tuple[Image, tuple[int, int]]:
    """Returns an image as it is seen, on white and with its longer side at most `side`, and its own size as it is seen."""
    from PIL import Image as Images

    turn = _turn(image)
    image = _on_white(_plain(image))
    scale = min(1.0, side / max(size))
    small = max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
    if image.size != small:
        image = image.resize(small, Images.Resampling.BILINEAR, reducing_gap=3.0)
    if turn is not None:
        image = image.transpose(turn)
        if turn in _SWAPPING:
            size = size[1], size[0]
    return image, size


def _turn(image: Image) -> Any:
    """Returns how an image is to be turned, by its EXIF; None: it is upright, or says nothing that can be read."""
    from PIL import Image as Images

    try:
        found = _TURNS.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:
        return None
    return None if found is None else Images.Transpose(found)


def _plain(image: Image) -> Image:
    """Returns an image as RGB or RGBA of 8 bits."""
    import numpy as np
    from PIL import Image as Images

    if image.mode.startswith("I;16") or image.mode == "I":
        wide = np.asarray(image)
        image = Images.fromarray((np.clip(wide, 0, 0xFFFF) >> 8).astype(np.uint8))
    if image.mode in _WITH_ALPHA or "transparency" in image.info:
        return image if image.mode == "RGBA" else image.convert("RGBA")
    return image if image.mode == "RGB" else image.convert("RGB")


def _squared(image: Image, side: int) -> Image:
    """Returns an image in the middle of a square, RGBA, with bars in the colour of its border."""
    import numpy as np
    from PIL import Image as Images

    if image.size == (side, side):
        return image.convert("RGBA")
    pixels = np.asarray(_on_white(image))
    edges = (pixels[:, 0], pixels[:, -1]) if image.width < image.height else (pixels[0], pixels[-1])
    colour = np.concatenate(edges).mean(axis=0)
    square = Images.new("RGBA", (side, side), (*(round(float(one)) for one in colour), 255))
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square


def _on_white(image: Image) -> Image:
    from PIL import Image as Images

    if image.mode != "RGBA":
        return image
    white = Images.new("RGBA", image.size, (255, 255, 255, 255))
    return Images.alpha_composite(white, image).convert("RGB")


def look_of(image: Image) -> NDArray[np.uint8]:
    """Returns what the safety model is shown of an RGB image: uint8 [LOOK, LOOK, 3]."""
    import numpy as np
    from PIL import Image as Images

    return np.asarray(image.resize((LOOK, LOOK), Images.Resampling.BILINEAR))
