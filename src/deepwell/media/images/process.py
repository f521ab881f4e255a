"""`Painter`: draws images in a child process that can neither write, nor reach the network, nor take what it likes.

`python -m deepwell.media.images.process FD` is the child for the network of the package, and `...diffusion.process` the one for
a pipeline of diffusers. It loads one model, and the one that looks at images, and keeps them. An image is one call that begins
it, and one call for each step, so that several requests take turns, step by step, and a client that leaves ends the work behind
the step at hand.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import sys
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from deepwell.errors import DeepwellError, EngineUnavailable, InvalidRequest, MissingDependency
from deepwell.media.images.child import DrawingChild, Estimate
from deepwell.media.images.diffusion.folder import is_pipeline, weight_bytes
from deepwell.media.images.flow import FlowModel
from deepwell.media.images.options import FLOW_GUIDANCE, HALF, ImageModel, ImageRequest, steps_drawn
from deepwell.media.images.protocol import (
    STEP_S,
    Begin,
    Canvas,
    Close,
    Count,
    Counted,
    Drawn,
    Look,
    Next,
    Score,
    Setup,
    decode_answer,
    encode,
)
from deepwell.media.images.provenance import Credential
from deepwell.media.images.reader import check_installed
from deepwell.media.images.sample import SampleOptions, sample
from deepwell.media.turns import TurnRules, Turns
from deepwell.process.calls import CallEnded, CallProcess, answer_calls

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Canvas", "DrawingBusy", "ImageRefused", "Painter", "PainterLimits", "Step"]

MEMORY_BYTES: Final = 1536 << 20
MOST_REQUESTS: Final = 64
"""Requests that one model works on or that wait for it; further ones are refused."""

_AT_A_TIME: Final = 8
_START_S: Final = 60.0
_PIPELINE_CHILD: Final = "deepwell.media.images.diffusion.process"
_PIPELINE_MODULES: Final = ("torch", "transformers", "diffusers")
_PIPELINE_BYTES: Final = 8 << 30  # for libraries and activations, beside the weights
_PIPELINE_START_S: Final = 900.0
_PIPELINE_STEP_S: Final = 3600.0  # of processor time; a step of twelve billion parameters takes most of it


@dataclass(frozen=True, slots=True)
class Step:
    """A step of a drawing.

    Attributes:
        image: number of the image, from 0.
        seed: of the image.
        done, total: steps of all images of the request.
        data: the file, of an unfinished image or of the finished one; empty: none is shown after this step.
        last: the image is finished.
    """

    image: int
    seed: int
    done: int
    total: int
    data: bytes
    last: bool


class DrawingBusy(DeepwellError):
    """Raised where a model has as many requests as it may have."""

    status = 503
    code = "overloaded"
    retry_after = 5


class ImageRefused(InvalidRequest):
    """Raised for a prompt or an image that the policy refuses. The code is that of OpenAI's API."""

    code = "moderation_blocked"
    score = 0.0
    """Score of the safety model, if it refused."""

    @classmethod
    def scored(cls, key: str, param: str, score: float) -> ImageRefused:
        """Returns the error of an image that the safety model refused; see `of`."""
        error = cls.of(key, param=param)
        error.score = score
        return error


@dataclass(frozen=True, slots=True)
class PainterLimits:
    """Limits of one model's process.

    Attributes:
        threads: processor threads of the model that looks at images; 0: all that this process may use.
        most_score: probability of being unsafe above which an image is refused.
        memory_bytes: memory for data that the process may take; 0: as much as its model needs.
    """

    threads: int = 0
    most_score: float = 0.8
    memory_bytes: int = 0


class Painter:
    """The parent's end for one model. The child starts with the first request.

    Args:
        safety: folder of the model that looks at every image; None: nothing does.
        credential: signs the images; None: they bear no signature.
    """

    def __init__(
        self,
        model: ImageModel,
        safety: Path | None = None,
        limits: PainterLimits | None = None,
        credential: Credential | None = None,
    ) -> None:
        self.model = model
        self.safety = safety
        self._credential = credential
        self._limits = limits or PainterLimits()
        self._piped = is_pipeline(model.folder)
        module, launch_s = (_PIPELINE_CHILD, _PIPELINE_START_S) if self._piped else (__name__, _START_S)
        self._rules = replace(_RULES, call_s=_PIPELINE_STEP_S) if self._piped else _RULES
        reads = [one for one in (model.folder, safety) if one is not None]
        calls = CallProcess(
            module, encode(self._setup()), launch_s=launch_s, reads=reads, decode=decode_answer
        )
        self._turns = Turns(calls, self._rules, "draw")

    def _setup(self) -> Setup:
        limits, credential = self._limits, self._credential
        files = None if credential is None else credential.read()
        memory = MEMORY_BYTES
        if self._piped:
            memory = _PIPELINE_BYTES + 3 * weight_bytes(self.model.folder)  # read once, and perhaps widened
        return Setup(
            _bytes(self.model.folder),
            b"" if self.safety is None else _bytes(self.safety),
            files,
            limits.threads or len(os.sched_getaffinity(0)),
            limits.memory_bytes or memory,
            self._rules.call_s,
        )

    @property
    def pid(self) -> int:
        """Process id of the child; 0 if there is none."""
        return self._turns.pid

    async def start(self, tenant: str) -> Canvas:
        """Starts the child if there is none for a tenant. Returns what it says of its model. Raises as `draw`."""
        check_installed()
        if self.safety is not None and importlib.util.find_spec("onnxruntime") is None:
            raise MissingDependency.of("images_extra_missing", package="onnxruntime")
        if self._credential is not None and importlib.util.find_spec("c2pa") is None:
            raise MissingDependency.of("c2pa_extra_missing", package="c2pa-python")
        for name in _PIPELINE_MODULES if self._piped else ():
            if importlib.util.find_spec(name) is None:
                raise MissingDependency.of("diffusers_extra_missing", package=name)
        async with self._turns.place(tenant) as hello:
            assert isinstance(hello, Canvas)
            return hello

    async def check(self, tenant: str, look: NDArray[np.uint8]) -> None:
        """Lets the safety model look at an image, uint8 [LOOK, LOOK, 3], that somebody sent.

        Raises:
            ImageRefused: it is likely unsafe.
        """
        if self.safety is None:
            return
        async with self._turns.place(tenant):
            found = await self._turns.ask(encode(Look(look.tobytes())))
        assert isinstance(found, Score)
        if found.value > self._limits.most_score:
            raise ImageRefused.scored("image_input_refused", "image", found.value)

    async def count(self, tenant: str, prompt: str) -> int:
        """Returns the number of tokens of a prompt that the model reads itself. Raises `InvalidRequest` if it is too long."""
        async with self._turns.place(tenant):
            found = await self._turns.ask(encode(Count(prompt)))
        assert isinstance(found, Counted)
        return found.tokens

    async def draw(self, tenant: str, request: ImageRequest) -> AsyncGenerator[Step]:
        """Yields every step of every image. A generator that is closed ends the work behind the step at hand.

        Raises:
            ImageRefused: an image that was drawn is likely unsafe.
            InvalidRequest: a step takes more than the limits.
            InvalidModelFile: a model cannot be loaded.
            MissingDependency: the extra `images` is not installed.
            DrawingBusy: too many requests wait.
            EngineUnavailable: the child could not run, or was closed.
        """
        async with self._turns.place(tenant):
            for number in range(request.count):
                seed = request.seed + number
                async with aclosing(self._image(request, seed)) as steps:
                    async for drawn in steps:
                        if drawn.score > self._limits.most_score:
                            raise ImageRefused.scored("image_output_refused", "prompt", drawn.score)
                        done, last = number * drawn.total + drawn.step, drawn.step == drawn.total
                        yield Step(number, seed, done, request.count * drawn.total, drawn.data, last)

    async def close(self) -> None:
        """Ends the child and what it works on. The next request starts another."""
        await self._turns.close()

    async def _image(self, request: ImageRequest, seed: int) -> AsyncGenerator[Drawn]:
        id = self._turns.new_id()
        try:
            await self._turns.ask(encode(_begin(id, request, seed)))
            last = False
            while not last:
                drawn = await self._turns.ask(encode(Next(id)))
                assert isinstance(drawn, Drawn)
                last = drawn.step == drawn.total
                yield drawn
        finally:
            await asyncio.shield(self._turns.let_go(encode(Close(id))))


def _bytes(path: Path) -> bytes:
    return os.fsencode(path.absolute())


def _begin(id: int, request: ImageRequest, seed: int) -> Begin:
    picture, opacity = request.picture, request.opacity
    condition = b"" if request.condition is None else request.condition.astype("<f4").tobytes()
    start = b"" if picture is None else picture.small.tobytes()
    original, stays, keep = b"", b"", b""
    if picture is not None and opacity is not None:
        original, stays, keep = picture.full.tobytes(), opacity[0].tobytes(), opacity[1].tobytes()
    side = 0 if picture is None else len(picture.small)
    return Begin(
        id,
        condition,
        request.prompt,
        request.negative,
        request.steps,
        -1.0 if request.guidance is None else request.guidance,
        seed,
        start,
        request.share,
        keep,
        original,
        stays,
        request.size,
        request.drawn or (side, side),
        request.format,
        request.compression,
        request.label,
        request.mark,
        request.partials,
    )


def _ended(error: CallEnded) -> DeepwellError:
    if error.killed or error.late or error.lost:
        return EngineUnavailable.of("image_ended", reason=str(error))
    return InvalidRequest.of("image_drawing_costly", reason=str(error), param="prompt")


_RULES: Final = TurnRules(
    _ended,
    lambda: DrawingBusy.of("image_busy", most=MOST_REQUESTS),
    call_s=STEP_S,
    at_a_time=_AT_A_TIME,
    most=MOST_REQUESTS,
)


class _FlowDrawer:
    """The network of the package, in numpy."""

    def __init__(self, folder: Path, threads: int) -> None:
        self._model = FlowModel.read(folder)

    def canvas(self) -> Canvas:
        config = self._model.config
        return Canvas(config.size, config.condition, config.text_encoder, config.prefix)

    def count(self, prompt: str) -> int:
        return 0  # another model reads the text

    def begin(self, asked: Begin) -> Iterator[Estimate]:
        import numpy as np

        side = self._model.config.size

        def pixels(data: bytes, *shape: int) -> NDArray[np.float32]:
            return np.frombuffer(data, np.uint8).reshape(shape).astype(np.float32)

        condition = (
            np.frombuffer(asked.condition, "<f4")[None].astype(np.float32) if asked.condition else None
        )
        start = keep = None
        if asked.start:
            start = pixels(asked.start, 1, side, side, 3) / np.float32(127.5) - np.float32(1)
        if asked.keep:
            keep = (pixels(asked.keep, 1, side, side, 1) >= HALF).astype(np.float32)
        guidance = FLOW_GUIDANCE if asked.guidance < 0 else asked.guidance
        options = SampleOptions(asked.steps, guidance, asked.seed)
        total = steps_drawn(asked.steps, asked.strength)
        estimates = sample(self._model, condition, options, start=start, strength=asked.strength, keep=keep)
        for step, estimate in enumerate(estimates, 1):
            yield Estimate(step, total, lambda found=estimate[0]: found)


def _libraries() -> None:
    import safetensors.numpy  # noqa: F401


def main(descriptor: str) -> None:
    """Serves the parent until it closes the connection."""
    answer_calls(int(descriptor), DrawingChild(_libraries, _FlowDrawer, "images_extra_missing").answer)


if __name__ == "__main__":
    main(sys.argv[1])
