"""`image_bytes`: the room that the images of a batch's line may take in its output file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from deepwell.media.images.options import MAX_IMAGES, size_of

__all__ = ["IMAGES", "image_bytes"]

IMAGES: Final = "/v1/images/"
"""Beginning of the endpoints whose lines are answered with images."""

_PIXEL_BYTES: Final = 4  # three of colour, in base64; PNG may save nothing
_REST_BYTES: Final = 4096  # the answer around an image, and the label in it


def image_bytes(body: Mapping[str, Any]) -> int:
    """Returns the most bytes of the answer to a body's scalars `n` and `size`. Values that the route refuses count once."""
    count = body.get("n")
    images = count if type(count) is int and 1 <= count <= MAX_IMAGES else 1
    size = body.get("size")
    found = re.fullmatch(r"(\d{2,4})x(\d{2,4})", size) if isinstance(size, str) else None
    width, height = (int(found[1]), int(found[2])) if found is not None else size_of("auto")
    return images * (width * height * _PIXEL_BYTES + _REST_BYTES)
