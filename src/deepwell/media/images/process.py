"""`Painter`: draws images in a child process that can neither write, nor reach the network, nor take what it likes.

`python -m deepwell.media.images.process FD` is the child. It loads one model, and the one that looks at images, and keeps them.
An image is one call that begins it, and one call for each step, so that several requests take turns, step by step, and a
client that leaves ends the work behind the step at hand.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import sys
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from deepwell.errors import DeepwellError, EngineUnavailable, InvalidRequest, MissingDependency
from deepwell.media.images.decode import LOOK, look_of, prepare
from deepwell.media.images.encode import ImageFormat, encoded, finished
from deepwell.media.images.flow import FlowModel
from deepwell.media.images.nsfw import SafetyModel
from deepwell.media.images.options import HALF, ImageModel, ImageRequest
from deepwell.media.images.provenance import ContentSigner, Credential
from deepwell.media.images.reader import check_installed
from deepwell.media.images.sample import SampleOptions, sample
from deepwell.media.turns import TurnRules, Turns
from deepwell.models.text.text_process import trim_memory
from deepwell.process.calls import CallEnded, CallProcess, answer_calls, limit_memory, limited
from deepwell.process.confine import confine
from deepwell.process.frames import Failure, failure_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Canvas", "DrawingBusy", "ImageRefused", "Painter", "PainterLimits", "Step"]

MEMORY_BYTES: Final = 1536 << 20
MOST_REQUESTS: Final = 64
"""Requests that one model works on or that wait for it; further ones are refused."""

_AT_A_TIME: Final = 8
_START_S: Final = 60.0
_STEP_S: Final = 120.0
_NICE: Final = 5


class _Setup(msgspec.Struct, array_like=True, frozen=True):
    folder: bytes
    safety: bytes
    credential: tuple[bytes, bytes] | None
    threads: int
    memory_bytes: int


class _Begin(msgspec.Struct, tag=1, array_like=True, frozen=True):
    """An image, whose file is made after each step of `shown`.

    `start` is uint8 [S, S, 3] and `keep` uint8 [S, S]; `original` and `stays` are the same at the size of the file.
    """

    id: int
    condition: bytes
    steps: int
    guidance: float
    seed: int
    start: bytes
    strength: float
    keep: bytes
    original: bytes
    stays: bytes
    size: tuple[int, int]
    format: ImageFormat
    compression: int
    label: str
    mark: bool
    shown: list[int]


class _Next(msgspec.Struct, tag=2, array_like=True, frozen=True):
    id: int


class _Close(msgspec.Struct, tag=3, array_like=True, frozen=True):
    id: int


class _Look(msgspec.Struct, tag=4, array_like=True, frozen=True):
    look: bytes


class Canvas(msgspec.Struct, tag=1, array_like=True, frozen=True):
    """A model's process as it describes itself when it is ready.

    Attributes:
        confined: whether the kernel confines it; see `confine`.
        size: side of the square that the model draws, in pixels.
        condition: length of the vector of a prompt.
        text_encoder: name of the text encoder that makes it.
        prefix: text that stands before each prompt that the encoder reads.
    """

    confined: bool
    size: int
    condition: int
    text_encoder: str
    prefix: str


class _Done(msgspec.Struct, tag=2, array_like=True, frozen=True):
    pass


class _Drawn(msgspec.Struct, tag=3, array_like=True, frozen=True):
    """A step is done. `data` is a file, empty unless one is shown; `score` is that of the safety model, -1 without one."""

    step: int
    data: bytes
    score: float


class _Score(msgspec.Struct, tag=4, array_like=True, frozen=True):
    value: float


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


_encode = msgspec.msgpack.Encoder().encode
_requests = msgspec.msgpack.Decoder(_Begin | _Next | _Close | _Look)
_answers = msgspec.msgpack.Decoder(Canvas | _Done | _Drawn | _Score | Failure)


@dataclass(frozen=True, slots=True)
class PainterLimits:
    """Limits of one model's process.

    Attributes:
        threads: processor threads of the model that looks at images; 0: all that this process may use.
        most_score: probability of being unsafe above which an image is refused.
        memory_bytes: memory for data that the process may take.
    """

    threads: int = 0
    most_score: float = 0.8
    memory_bytes: int = MEMORY_BYTES


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
        calls = CallProcess(__name__, _encode(self._setup()), launch_s=_START_S)
        self._turns = Turns(calls, _RULES, "draw")

    def _setup(self) -> _Setup:
        limits, credential = self._limits, self._credential
        files = None if credential is None else (_bytes(credential.certificate), _bytes(credential.key))
        return _Setup(
            _bytes(self.model.folder),
            b"" if self.safety is None else _bytes(self.safety),
            files,
            limits.threads or len(os.sched_getaffinity(0)),
            limits.memory_bytes,
        )

    @property
    def pid(self) -> int:
        """Process id of the child; 0 if there is none."""
        return self._turns.pid

    async def start(self) -> Canvas:
        """Starts the child if there is none. Returns what it says of itself. Raises as `draw`."""
        check_installed()
        if self.safety is not None and importlib.util.find_spec("onnxruntime") is None:
            raise MissingDependency.of("images_extra_missing", package="onnxruntime")
        if self._credential is not None and importlib.util.find_spec("c2pa") is None:
            raise MissingDependency.of("c2pa_extra_missing", package="c2pa-python")
        hello = await self._turns.start()
        assert isinstance(hello, Canvas)
        return hello

    async def check(self, look: NDArray[np.uint8]) -> None:
        """Lets the safety model look at an image, uint8 [LOOK, LOOK, 3], that somebody sent.

        Raises:
            ImageRefused: it is likely unsafe.
        """
        if self.safety is None:
            return
        await self.start()
        found = await self._turns.ask(_encode(_Look(look.tobytes())))
        assert isinstance(found, _Score)
        if found.value > self._limits.most_score:
            raise ImageRefused.scored("image_input_refused", "image", found.value)

    async def draw(self, request: ImageRequest) -> AsyncGenerator[Step]:
        """Yields every step of every image. A generator that is closed ends the work behind the step at hand.

        Raises:
            ImageRefused: an image that was drawn is likely unsafe.
            InvalidRequest: a step takes more than the limits.
            InvalidModelFile: a model cannot be loaded.
            MissingDependency: the extra `images` is not installed.
            DrawingBusy: too many requests wait.
            EngineUnavailable: the child could not run, or was closed.
        """
        async with self._turns.place():
            await self.start()
            each = request.steps_an_image
            for number in range(request.count):
                seed = request.seed + number
                async with aclosing(self._image(request, seed)) as steps:
                    async for drawn in steps:
                        if drawn.score > self._limits.most_score:
                            raise ImageRefused.scored("image_output_refused", "prompt", drawn.score)
                        done = number * each + drawn.step
                        total = request.count * each
                        yield Step(number, seed, done, total, drawn.data, drawn.step == each)

    async def close(self) -> None:
        """Ends the child and what it works on. The next request starts another."""
        await self._turns.close()

    async def _image(self, request: ImageRequest, seed: int) -> AsyncGenerator[_Drawn]:
        id = self._turns.new_id()
        try:
            await self._turns.ask(_encode(_begin(id, request, seed)))
            for _ in range(request.steps_an_image):
                drawn = await self._turns.ask(_encode(_Next(id)))
                assert isinstance(drawn, _Drawn)
                yield drawn
        finally:
            await asyncio.shield(self._turns.let_go(_encode(_Close(id))))


def _bytes(path: Path) -> bytes:
    return os.fsencode(path.absolute())


def _begin(id: int, request: ImageRequest, seed: int) -> _Begin:
    picture, opacity = request.picture, request.opacity
    condition = b"" if request.condition is None else request.condition.astype("<f4").tobytes()
    start = b"" if picture is None else picture.small.tobytes()
    original, stays, keep = b"", b"", b""
    if picture is not None and opacity is not None:
        original, stays, keep = picture.full.tobytes(), opacity[0].tobytes(), opacity[1].tobytes()
    steps = request.steps_an_image
    every = {steps * (one + 1) // (request.partials + 1) for one in range(request.partials)}
    return _Begin(
        id,
        condition,
        request.steps,
        request.guidance,
        seed,
        start,
        request.share,
        keep,
        original,
        stays,
        request.size,
        request.format,
        request.compression,
        request.label,
        request.mark,
        sorted((every | {steps}) - {0}),
    )


def _ended(error: CallEnded) -> DeepwellError:
    if error.killed or error.late or error.lost:
        return EngineUnavailable.of("image_ended", reason=str(error))
    return InvalidRequest.of("image_drawing_costly", reason=str(error), param="prompt")


_RULES: Final = TurnRules(
    _answers.decode,
    _ended,
    lambda: DrawingBusy.of("image_busy", most=MOST_REQUESTS),
    call_s=_STEP_S,
    at_a_time=_AT_A_TIME,
    most=MOST_REQUESTS,
)


class _Drawing:
    """An image that is being drawn."""

    def __init__(self, model: FlowModel, asked: _Begin) -> None:
        import numpy as np

        self.asked = asked
        self.step = 0
        side, out = model.config.size, min(asked.size)

        def pixels(data: bytes, *shape: int) -> NDArray[np.uint8]:
            return np.frombuffer(data, np.uint8).reshape(shape)

        condition = (
            np.frombuffer(asked.condition, "<f4")[None].astype(np.float32) if asked.condition else None
        )
        start = keep = self.original = None
        if asked.start:
            start = pixels(asked.start, 1, side, side, 3).astype(np.float32) / np.float32(127.5) - np.float32(
                1
            )
        if asked.keep:
            keep = (pixels(asked.keep, 1, side, side, 1) >= HALF).astype(np.float32)
            self.original = pixels(asked.original, out, out, 3), pixels(asked.stays, out, out)
        options = SampleOptions(asked.steps, asked.guidance, asked.seed)
        self.estimates: Iterator[NDArray[np.float32]] = sample(
            model, condition, options, start=start, strength=asked.strength, keep=keep
        )


class _Child:
    """The child's end: loads its models and confines itself at the first message, then draws."""

    def __init__(self) -> None:
        self._model: FlowModel | None = None
        self._safety: SafetyModel | None = None
        self._signer: ContentSigner | None = None
        self._drawings: dict[int, _Drawing] = {}

    def answer(self, body: bytes) -> bytes:
        try:
            if self._model is None:
                return _encode(self._start(msgspec.msgpack.decode(body, type=_Setup)))
            request = _requests.decode(body)
            if isinstance(request, _Begin):
                self._drawings[request.id] = _Drawing(self._model, request)
                return _encode(_Done())
            if isinstance(request, _Next):
                return _encode(self._next(request.id))
            if isinstance(request, _Look):
                return _encode(_Score(self._score(_looked(request.look))))
            self._drawings.pop(request.id, None)
            trim_memory()
            return _encode(_Done())
        except DeepwellError as error:
            return _encode(failure_of(0, error))
        except ImportError as error:
            return _encode(failure_of(0, MissingDependency.of("images_extra_missing", package=error.name)))
        except MemoryError:
            os.abort()  # little works after it; the parent starts another child
        except BaseException as error:
            reason = f"{type(error).__name__}: {str(error)[:200]}"
            return _encode(
                failure_of(0, InvalidRequest.of("image_drawing_costly", reason=reason, param="prompt"))
            )

    def _start(self, setup: _Setup) -> Canvas:
        sys.dont_write_bytecode = True
        os.nice(_NICE)
        limit_memory(setup.memory_bytes)
        # Libraries are loaded before the process is confined, and a model, which may be a stranger's, behind that.
        prepare()
        import safetensors.numpy  # noqa: F401

        if setup.safety:
            import onnxruntime  # noqa: F401
        if setup.credential is not None:
            self._signer = ContentSigner(*(Path(os.fsdecode(one)) for one in setup.credential))
        confined = confine()
        if setup.safety:
            self._safety = SafetyModel(Path(os.fsdecode(setup.safety)), setup.threads)
        self._model = FlowModel.read(Path(os.fsdecode(setup.folder)))
        config = self._model.config
        return Canvas(confined, config.size, config.condition, config.text_encoder, config.prefix)

    def _next(self, id: int) -> _Drawn:
        drawing = self._drawings.get(id)
        if drawing is None:
            raise EngineUnavailable.of("image_ended", reason="another process took its place")
        asked = drawing.asked
        with limited(_STEP_S):
            estimate = next(drawing.estimates)[0]
            drawing.step += 1
            if drawing.step not in asked.shown:
                return _Drawn(drawing.step, b"", -1.0)
            image = finished(estimate, asked.size, drawing.original)
            score = self._score(look_of(image))
            data = encoded(image, asked.format, asked.compression, asked.label, mark=asked.mark)
            if self._signer is not None:
                data = self._signer.signed(data, asked.format, changed=bool(asked.start))
            return _Drawn(drawing.step, data, score)

    def _score(self, look: NDArray[np.uint8]) -> float:
        return -1.0 if self._safety is None else self._safety.score(look)


def _looked(look: bytes) -> NDArray[np.uint8]:
    import numpy as np

    return np.frombuffer(look, np.uint8).reshape(LOOK, LOOK, 3)


def main(descriptor: str) -> None:
    """Serves the parent until it closes the connection."""
    answer_calls(int(descriptor), _Child().answer)


if __name__ == "__main__":
    main(sys.argv[1])
