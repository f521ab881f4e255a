"""Messages between `Painter` and the process that draws, whichever program draws in it."""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from deepwell.errors import InvalidRequest
from deepwell.media.images.encode import ImageFormat
from deepwell.media.images.options import AUTO_SIZE, size_of
from deepwell.process.frames import Failure

__all__ = [
    "STEP_S",
    "Begin",
    "Canvas",
    "Close",
    "Count",
    "Counted",
    "Done",
    "DrawMode",
    "Drawn",
    "Look",
    "Next",
    "Score",
    "Setup",
    "decode_answer",
    "decode_request",
    "encode",
]

STEP_S: Final = 120.0
"""Processor time of one call to the network that ships with the package."""

DrawMode = Literal["text", "image", "mask"]
"""Kind of drawing: from a text alone, from an image as a whole, or of the part of an image that a mask leaves."""


class Setup(msgspec.Struct, array_like=True, frozen=True):
    """The first message: what the child loads, and its limits."""

    folder: bytes
    safety: bytes
    credential: tuple[str, bytes, bytes] | None
    threads: int
    memory_bytes: int
    step_s: float


class Begin(msgspec.Struct, tag=1, array_like=True, frozen=True):
    """An image to draw.

    Attributes:
        condition: vector of the prompt, for a model that reads no text itself.
        prompt, negative: texts, for a model that reads them.
        guidance: weight of the prompt; -1: the model's own.
        start, keep: uint8 [S, S, 3] and [S, S]: the picture to begin with, and what of it stays.
        original, stays: the same at the size of the file.
        size: width and height of the file.
        drawn: width and height at which it is drawn.
        partials: number of unfinished images that are shown on the way.
    """

    id: int
    condition: bytes
    prompt: str
    negative: str
    steps: int
    guidance: float
    seed: int
    start: bytes
    strength: float
    keep: bytes
    original: bytes
    stays: bytes
    size: tuple[int, int]
    drawn: tuple[int, int]
    format: ImageFormat
    compression: int
    label: str
    mark: bool
    partials: int

    @property
    def mode(self) -> DrawMode:
        """The kind of the drawing."""
        return "mask" if self.keep else "image" if self.start else "text"


class Next(msgspec.Struct, tag=2, array_like=True, frozen=True):
    """Asks for the next step of an image."""

    id: int


class Close(msgspec.Struct, tag=3, array_like=True, frozen=True):
    """Lets an image go."""

    id: int


class Look(msgspec.Struct, tag=4, array_like=True, frozen=True):
    """Asks the safety model about an image, uint8 [LOOK, LOOK, 3]."""

    look: bytes


class Count(msgspec.Struct, tag=5, array_like=True, frozen=True):
    """Asks for the number of tokens of a prompt."""

    prompt: str


class Canvas(msgspec.Struct, tag=1, array_like=True, frozen=True):
    """A model's process as it describes itself when it is ready.

    Attributes:
        size: side of the square that the model draws, in pixels.
        condition: length of the vector of a prompt; 0: the model reads the text itself.
        text_encoder: name of the text encoder that makes the vector; empty: the model reads the text itself.
        prefix: text that stands before each prompt that the encoder reads.
        multiple: number that divides the sides of every drawing; 0: the model draws squares alone, and small ones.
        modes: kinds of drawings that the model can make.
        negative: whether the model reads a negative prompt.
    """

    size: int
    condition: int
    text_encoder: str
    prefix: str
    multiple: int = 0
    modes: tuple[DrawMode, ...] = ("text", "image", "mask")
    negative: bool = False

    def file_size(self, asked: str) -> tuple[int, int]:
        """Returns the width and height of the files for a size such as `1024x1024`; `auto` is the model's own, if it is large.

        Raises:
            InvalidRequest: images are not made at it.
        """
        return (self.size, self.size) if self.multiple and asked == AUTO_SIZE else size_of(asked)

    def drawn_size(self, size: tuple[int, int], *, square: bool) -> tuple[int, int]:
        """Returns the width and height of the drawing for files of a size: as many pixels as the model's own square has.

        Args:
            square: a picture is changed, which was made a square.
        """
        if square or not self.multiple or size[0] == size[1]:
            return self.size, self.size
        wide, high = _ratio(*size)
        unit = self.size / (self.multiple * (wide * high) ** 0.5)
        times = max(1, round(unit)) * self.multiple
        return wide * times, high * times

    def check(self, model: str, mode: DrawMode, negative: str) -> None:
        """Checks that the model can make a drawing.

        Raises:
            InvalidRequest: it cannot.
        """
        if mode not in self.modes:
            param = {"text": "prompt", "image": "image", "mask": "mask"}[mode]
            raise InvalidRequest.of(f"image_mode_{mode}", name=model, param=param)
        if negative and not self.negative:
            raise InvalidRequest.of("image_negative_prompt", name=model, param="negative_prompt")


class Done(msgspec.Struct, tag=2, array_like=True, frozen=True):
    """The call did what it was to do."""


class Drawn(msgspec.Struct, tag=3, array_like=True, frozen=True):
    """A step is done.

    Attributes:
        step, total: number of the step, from 1, and of all steps of the image.
        data: a file, empty unless one is shown.
        score: that of the safety model, -1 without one.
    """

    step: int
    total: int
    data: bytes
    score: float


class Score(msgspec.Struct, tag=4, array_like=True, frozen=True):
    """The probability that an image is unsafe."""

    value: float


class Counted(msgspec.Struct, tag=5, array_like=True, frozen=True):
    """The number of tokens of a prompt."""

    tokens: int


def _ratio(width: int, height: int) -> tuple[int, int]:
    """Returns the ratio of two sides in lowest terms."""
    from math import gcd

    common = gcd(width, height)
    return width // common, height // common


encode = msgspec.msgpack.Encoder().encode
decode_request = msgspec.msgpack.Decoder(Begin | Next | Close | Look | Count).decode
decode_answer = msgspec.msgpack.Decoder(Canvas | Done | Drawn | Score | Counted | Failure).decode
