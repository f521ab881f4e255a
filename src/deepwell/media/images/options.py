"""Requests for images, and the models that draw them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from deepwell.errors import InvalidRequest, ModelNotFound
from deepwell.media.images.decode import Picture
from deepwell.media.images.encode import ImageFormat
from deepwell.models.formats.kinds import kind_of
from deepwell.models.store.store import ModelStore

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = [
    "AUTO_SIZE",
    "DEFAULT_MODEL",
    "FLOW_GUIDANCE",
    "HALF",
    "MAX_CHARACTERS",
    "MAX_GUIDANCE",
    "MAX_IMAGES",
    "MAX_SEED",
    "MAX_STEPS",
    "QUALITY_STEPS",
    "SAFETY_NAME",
    "SIZES",
    "ImageGuard",
    "ImageModel",
    "ImageRequest",
    "find_safety",
    "opacity_of",
    "open_image_model",
    "size_of",
    "steps_drawn",
    "stored_image_models",
]

DEFAULT_MODEL: Final = "deepwell-draw"
"""Name of the model that ships with the package."""
SAFETY_NAME: Final = "opennsfw"
SHIPPED: Final = Path(__file__).with_name("weights")
MAX_IMAGES: Final = 10
HALF: Final = 128
"""Opacity from which a pixel stays."""
MAX_STEPS: Final = 100
MAX_GUIDANCE: Final = 20.0
MAX_SEED: Final = (1 << 53) - 1 - MAX_IMAGES
MAX_CHARACTERS: Final = 4000
SIZES: Final = ("256x256", "512x512", "1024x1024", "1536x1024", "1024x1536")
QUALITY_STEPS: Final[Mapping[str, int]] = {
    "auto": 24,
    "low": 12,
    "medium": 24,
    "standard": 24,
    "high": 40,
    "hd": 40,
    "xhigh": 60,
    "max": 80,
}
AUTO_SIZE: Final = "auto"
FLOW_GUIDANCE: Final = 3.0
"""Weight of the prompt with the network of the package where a request does not say."""
_AUTO: Final = "512x512"

ImageGuard = Literal["auto", "required", "off"]


@dataclass(frozen=True, slots=True)
class ImageModel:
    """A model that draws: its name, and the folder of its files."""

    name: str
    folder: Path


@dataclass(frozen=True, slots=True)
class ImageRequest:
    """Images that are drawn from one prompt, one picture, or both.

    Attributes:
        condition: float32 [C], the vector of the prompt; None: a variation, or a model that reads texts.
        seed: of the first image; each further one has the next number.
        guidance: weight of the prompt; None: the model's own.
        picture: what is changed; None: the image is drawn from nothing.
        strength: how much of the picture is given up, from 0 to 1.
        opacity: uint8 [out, out] and [draw, draw]: what of the picture stays, 255 all of it; None: it is redrawn as a whole.
        size: width and height of the files.
        compression: quality of JPEG and WebP, from 0 to 100.
        label: text of the label of generated content; empty: the files get none.
        mark: whether the images show that they were generated.
        partials: how many unfinished images are shown on the way.
        prompt, negative: the prompt, and what the image should not show, for a model that reads texts.
        drawn: width and height at which it is drawn; None: those of the model's square.
    """

    condition: NDArray[np.float32] | None
    seed: int
    count: int = 1
    steps: int = 24
    guidance: float | None = None
    picture: Picture | None = None
    strength: float = 1.0
    opacity: tuple[NDArray[np.uint8], NDArray[np.uint8]] | None = None
    size: tuple[int, int] = (512, 512)
    format: ImageFormat = "png"
    compression: int = 100
    label: str = ""
    mark: bool = True
    partials: int = 0
    prompt: str = ""
    negative: str = ""
    drawn: tuple[int, int] | None = None

    @property
    def share(self) -> float:
        """Share of the way from noise that is drawn: what stays of a picture under a mask needs all of it."""
        return 1.0 if self.picture is None or self.opacity is not None else self.strength

    @property
    def steps_an_image(self) -> int:
        """Steps of each image: fewer where a part of the way is left out; see `sample`."""
        return steps_drawn(self.steps, self.share)


def steps_drawn(steps: int, share: float) -> int:
    """Returns how many of the steps are taken where only a share of the way is drawn; see `sample`."""
    begin = min(max(1.0 - share, 0.0), 1.0)
    return max(1, round(steps * (1.0 - begin)))


def size_of(text: str) -> tuple[int, int]:
    """Returns the width and height of a size such as `1024x1024` or `auto`.

    Raises:
        InvalidRequest: images are not made at it.
    """
    found = re.fullmatch(r"(\d{2,4})x(\d{2,4})", _AUTO if text == AUTO_SIZE else text)
    if found is None or (text != AUTO_SIZE and text not in SIZES):
        raise InvalidRequest.of("image_size", size=text[:32], known=", ".join(SIZES), param="size")
    return int(found[1]), int(found[2])


def opacity_of(picture: Picture, mask: Picture | None) -> tuple[NDArray[np.uint8], NDArray[np.uint8]] | None:
    """Returns how much of a picture stays, at both sizes: what is transparent in the mask is painted anew.

    Without a mask the picture's own transparent parts are; if there are none, None: it is drawn anew as a whole.

    Raises:
        InvalidRequest: the mask is of another size, or nothing of it is transparent.
    """
    if mask is None:
        return None if picture.opacity.min() >= HALF else (picture.opacity, picture.small_opacity)
    if (mask.width, mask.height) != (picture.width, picture.height):
        sizes = [f"{one.width}x{one.height}" for one in (mask, picture)]
        raise InvalidRequest.of("image_mask_size", mask=sizes[0], image=sizes[1], param="mask")
    if mask.opacity.min() >= HALF:
        raise InvalidRequest.of("image_mask_opaque", param="mask")
    return mask.opacity, mask.small_opacity


def stored_image_models(store: ModelStore) -> list[str]:
    """Returns the names of the models that draw: the shipped one, if it is here, and those in the store."""
    own = [DEFAULT_MODEL] if kind_of(SHIPPED) == "image" else []
    return own + [name for name in store.names() if kind_of(store.root / name) == "image" and name not in own]


def open_image_model(store: ModelStore, name: str) -> ImageModel:
    """Returns a model that draws by its name or path.

    Raises:
        ModelNotFound: it is not here.
        InvalidRequest: it is a model of another kind.
    """
    if name == DEFAULT_MODEL and kind_of(SHIPPED) == "image":
        return ImageModel(name, SHIPPED)
    try:
        stored = store.resolve(name)
    except ModelNotFound:
        if name != DEFAULT_MODEL:
            raise
        raise ModelNotFound.of("image_model_missing", name=name, param="model") from None
    if kind_of(stored.path) != "image":
        raise InvalidRequest.of("image_model_kind", name=name, fit=DEFAULT_MODEL, param="model")
    return ImageModel(stored.name, stored.path)


def find_safety(store: ModelStore, guard: ImageGuard) -> Path | None:
    """Returns the folder of the model that looks at images; None: nothing looks at them.

    Raises:
        ModelNotFound: the setting requires it, and it is not in the store.
    """
    if guard == "off":
        return None
    if SAFETY_NAME in store.names() and kind_of(folder := store.root / SAFETY_NAME) == "image-safety":
        return folder
    if guard == "required":
        raise ModelNotFound.of("image_safety_missing", name=SAFETY_NAME, param="model")
    return None
