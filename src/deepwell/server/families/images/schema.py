"""The requests of `/v1/images`: a JSON body, and two forms whose fields are checked by models of the same kind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, Self, TypeVar

from fastapi.exceptions import RequestValidationError
from pydantic import Field, ValidationError, model_validator

from deepwell.media.images.options import (
    MAX_CHARACTERS,
    MAX_GUIDANCE,
    MAX_IMAGES,
    MAX_SEED,
    MAX_STEPS,
    QUALITY_STEPS,
    SIZES,
)
from deepwell.server.http.multipart import BINARY, DeferredForm, Form, form_schema
from deepwell.server.http.schema import Strict, crossed, only_values, refuse

__all__ = [
    "FORM_OF_EDIT",
    "FORM_OF_VARIATION",
    "DrawingFields",
    "ImageEditFields",
    "ImageGenerationBody",
    "ImageVariationFields",
    "SharedFields",
    "fields_of",
]

_GIF: Final = "only GIF output has frames, and images are PNG, JPEG or WebP"
_SVG: Final = "images are drawn as pixels: SVG is not written"
_T = TypeVar("_T", bound="SharedFields")
_Size = Annotated[
    Literal["auto", "256x256", "512x512", "1024x1024", "1536x1024", "1024x1536"] | None,
    only_values("size", "auto", *SIZES),
]


class SharedFields(Strict):
    """Fields of all requests for images."""

    model: str | None = Field(
        None,
        description="A model that draws. OpenAI's names, such as `gpt-image-1`, stand for that of the setting image_model.",
    )
    n: int | None = Field(None, ge=1, le=MAX_IMAGES, description="Number of images; 1 if left out.")
    size: _Size = Field(
        None,
        description="Width and height of the files; `auto` is 512x512. The model draws a small square, which is enlarged;"
        " a size that is no square gets bars in the colour of the drawing's border. With a pipeline of diffusers `auto` is the"
        " square that it was trained on; other sizes are drawn with as many pixels in their own ratio, and resized.",
    )
    response_format: Annotated[
        Literal["b64_json"] | None,
        only_values(
            "response_format", "b64_json", instead="no image is kept, so it has no URL: send 'b64_json'"
        ),
    ] = None
    user: str | None = None
    safety_identifier: str | None = None
    seed: int | None = Field(
        None,
        ge=0,
        le=MAX_SEED,
        description="Extension: seed of the first image; each further one has the next number. Left out: a random one."
        " The header `x-seed` tells it.",
    )
    steps: int | None = Field(
        None, ge=1, le=MAX_STEPS, description="Extension: steps of each image; left out: those of `quality`."
    )
    strength: float | None = Field(
        None,
        gt=0,
        le=1,
        description="Extension: how much of the image that was sent is given up, where there is no mask.",
    )

    @property
    def count(self) -> int:
        """The number of images."""
        return self.n or 1


class DrawingFields(SharedFields):
    """Fields of requests with a prompt."""

    prompt: str = Field(min_length=1, max_length=MAX_CHARACTERS, description="Description of the image.")
    background: Annotated[
        Literal["auto", "opaque"] | None,
        only_values("background", "auto", "opaque", instead="images are opaque: leave it out"),
    ] = None
    moderation: Literal["auto", "low"] | None = Field(
        None, description="Accepted, and without effect: the server's operator decides what is refused."
    )
    output_format: Annotated[
        Literal["png", "jpeg", "webp"] | None,
        only_values("output_format", "png", "jpeg", "webp"),
    ] = None
    output_compression: int | None = Field(
        None, ge=0, le=100, description="Quality of JPEG and WebP; 100 if left out. PNG loses nothing."
    )
    partial_images: int | None = Field(
        None, ge=0, le=3, description="Number of unfinished images that a stream shows on the way to each."
    )
    quality: Literal["auto", "low", "medium", "high", "standard", "hd", "xhigh", "max"] | None = Field(
        None,
        description="Steps of each image: "
        + ", ".join(f"{name} {count}" for name, count in QUALITY_STEPS.items())
        + ".",
    )
    stream: bool | None = Field(None, description="Whether images come as events.")
    guidance: float | None = Field(
        None,
        ge=0,
        le=MAX_GUIDANCE,
        description="Extension: weight of the prompt. Left out: 3, or what a pipeline of diffusers has; 1 is the model's own.",
    )
    negative_prompt: str | None = Field(
        None,
        max_length=MAX_CHARACTERS,
        description="Extension: what the image should not show. Only pipelines of diffusers read it, and not all.",
    )
    complexity: Annotated[Any, refuse("the model plans nothing before it draws")] = None
    frame_count: Annotated[Any, refuse(_GIF)] = None
    frame_duration_ms: Annotated[Any, refuse(_GIF)] = None
    svg: Annotated[Any, refuse(_SVG)] = None

    @model_validator(mode="after")
    def _fit(self) -> Self:
        if self.partial_images and not self.stream:
            raise crossed("partial_images", "partial_images needs stream: unfinished images come as events")
        if self.output_compression not in (None, 100) and self.output_format in (None, "png"):
            raise crossed(
                "output_compression", "PNG is not compressed with a loss: send output_format jpeg or webp"
            )
        return self

    @property
    def step_count(self) -> int:
        """The steps of each image."""
        return self.steps or QUALITY_STEPS[self.quality or "auto"]


class ImageGenerationBody(DrawingFields):
    """`POST /v1/images/generations`."""

    style: Annotated[Any, refuse("the model has no styles: describe the style in the prompt")] = None
    strength: Annotated[
        Any, refuse("there is no image that could be given up: send it to /v1/images/edits")
    ] = None


class ImageEditFields(DrawingFields):
    """The fields of `POST /v1/images/edits`, beside its files."""

    input_fidelity: Annotated[
        Literal["low"] | None,
        only_values("input_fidelity", "low", instead="leave it out, and send a mask or a low strength"),
    ] = None
    markup: Annotated[Any, refuse("the model follows no drawings over an image: send a mask")] = None


class ImageVariationFields(SharedFields):
    """The fields of `POST /v1/images/variations`, beside its file."""


_NUMBERS: Final = ("n", "output_compression", "partial_images", "seed", "steps")
_FRACTIONS: Final = ("guidance", "strength")
_TRUTH: Final = {"true": True, "True": True, "false": False, "False": False}


def fields_of(form: Form, kind: type[_T]) -> _T:
    """Returns the checked fields of a form. Its numbers are text.

    Raises:
        RequestValidationError: a field is missing, unknown, or has a value that is refused.
    """
    values: dict[str, Any] = {name: _plain(name, value) for name, value in form.fields.items()}
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        found = [{**one, "loc": ("body", *one["loc"])} for one in error.errors()]
        raise RequestValidationError(found, body=values) from None


def _plain(name: str, value: str) -> Any:
    """Returns the value of a field as JSON would have it; one that cannot be read stays text, and is refused by its type."""
    try:
        if name in _NUMBERS:
            return int(value)
        if name in _FRACTIONS:
            return float(value)
    except ValueError:
        return value
    return _TRUTH.get(value, value) if name == "stream" else value


def _schema(kind: type[SharedFields], files: Mapping[str, str], needed: list[str]) -> DeferredForm:
    shown = {name: BINARY | {"description": text} for name, text in files.items()}
    return DeferredForm(lambda: form_schema(shown | kind.model_json_schema()["properties"], needed))


_IMAGE: Final = "The image: PNG, JPEG, WebP, or the first frame of a GIF. One that is no square gets bars."
FORM_OF_EDIT = _schema(
    ImageEditFields,
    {
        "image": _IMAGE,
        "mask": "An image of the same size, transparent where the first one is painted anew. Left out: the transparent parts of"
        " the image are; if there are none, all of it is drawn anew, as far as `strength` says.",
    },
    ["image", "prompt"],
)
FORM_OF_VARIATION = _schema(ImageVariationFields, {"image": _IMAGE}, ["image"])
