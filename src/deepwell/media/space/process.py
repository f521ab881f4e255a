"""`Sensing`: puts images and sounds into the space in a child process that can neither write, nor reach the network, nor take
what it likes.

`python -m deepwell.media.space.process FD` is the child. It reads files of strangers, and loads each encoder with the first
file that needs it. One call is one file. Texts need no child: their vectors come from e5, and lose their common mean here.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from deepwell.engine.machine import usable_cpus
from deepwell.errors import DeepwellError, EngineUnavailable, InvalidFile, MissingDependency, ModelNotFound
from deepwell.media.audio.decode import decode_audio
from deepwell.media.images.decode import page_of, read_view
from deepwell.media.images.decode import prepare as prepare_images
from deepwell.media.images.nsfw import SafetyModel
from deepwell.media.recognition.process import NEEDED as SPEECH_MODULES
from deepwell.media.recognition.whisper import load_model
from deepwell.media.recognition.whisper import prepare as prepare_sounds
from deepwell.media.space.features import MOST_SOUND_S, SIDE, ImageEncoder, SoundEncoder, prepared_image
from deepwell.media.space.fusion import SIGNS
from deepwell.media.space.heads import ImageHead, unit
from deepwell.media.space.options import SenseModels, SensingLimits, find_models
from deepwell.media.space.sound import SoundHead
from deepwell.media.space.tags import Tag, Vocabulary, shipped_vocabulary
from deepwell.media.space.weights import SHIPPED, SpaceWeights
from deepwell.media.turns import TurnRules, Turns
from deepwell.process.calls import CallEnded, CallProcess, answer_calls, limit_memory, limited, trim_memory
from deepwell.process.frames import Failure, failure_of

__all__ = ["Heard", "Looked", "Seen", "Sensing", "SensingBusy", "open_sensing"]

MOST_REQUESTS: Final = 64
"""Images and sounds that are worked on or wait; further ones are refused."""

IMAGE_MODULES: Final = {"PIL": "pillow", "onnxruntime": "onnxruntime"}
"""Modules that images need, and the packages that bring them."""

_START_S: Final = 60.0
_GRACE_S: Final = 180.0
_NICE: Final = 5
_UNKNOWN: Final = -1.0
_PAGE_SIDE: Final = 3000  # pixels of a page for the parser: about A4 at 250 dpi


class _Setup(msgspec.Struct, array_like=True, frozen=True):
    image: bytes
    sound: bytes
    safety: bytes
    weights: bytes
    threads: int
    memory_bytes: int
    image_s: float
    sound_s: float


class _Image(msgspec.Struct, tag=1, array_like=True, frozen=True):
    data: bytes


class _Sound(msgspec.Struct, tag=2, array_like=True, frozen=True):
    data: bytes


class _Page(msgspec.Struct, tag=3, array_like=True, frozen=True):
    data: bytes


class _Started(msgspec.Struct, tag=1, array_like=True, frozen=True):
    pass


class _Seen(msgspec.Struct, tag=2, array_like=True, frozen=True):
    vector: bytes  # empty: there is no encoder
    width: int
    height: int
    unsafe: float
    signs: bytes = b""


class _Heard(msgspec.Struct, tag=3, array_like=True, frozen=True):
    vector: bytes
    signs: bytes
    seconds: float


class _Printed(msgspec.Struct, tag=4, array_like=True, frozen=True):
    data: bytes


_encode = msgspec.msgpack.Encoder().encode
_requests = msgspec.msgpack.Decoder(_Image | _Sound | _Page)
_answers = msgspec.msgpack.Decoder(_Started | _Seen | _Heard | _Printed | Failure)


@dataclass(frozen=True, slots=True)
class Looked:
    """An image as it is without its encoder.

    Attributes:
        width, height: its size, in pixels.
        unsafe: how likely it is unsafe for work, from 0 to 1; -1: no model looked.
    """

    width: int
    height: int
    unsafe: float


@dataclass(frozen=True, slots=True)
class Seen:
    """An image as it was seen. Its names are guesses.

    Attributes:
        vector: float32 [384], a unit vector of the space.
        tags: words about it, the best first; empty: none is near.
        caption, caption_zh: the nearest caption; empty: none is near.
        width, height: its size, in pixels.
        unsafe: how likely it is unsafe for work, from 0 to 1; -1: no model looked.
        signs: float32 [4], how sure the head is; see `fusion.Sensed`.
    """

    vector: NDArray[np.float32]
    tags: tuple[Tag, ...]
    caption: str
    caption_zh: str
    width: int
    height: int
    unsafe: float
    signs: NDArray[np.float32] = field(default_factory=lambda: np.zeros(SIGNS, np.float32))


@dataclass(frozen=True, slots=True)
class Heard:
    """A recording as it was heard.

    Attributes:
        vector: float32 [384], a unit vector of the space.
        signs: float32 [4], how sure the head is; see `fusion.Sensed`.
        seconds: its duration.
    """

    vector: NDArray[np.float32]
    signs: NDArray[np.float32]
    seconds: float


class SensingBusy(DeepwellError):
    """Raised where as many images and sounds wait as may."""

    status = 503
    code = "overloaded"
    retry_after = 5


class Sensing:
    """The parent's end, one for a server. The child starts with the first file. It belongs to one event loop.

    Args:
        models: the models that are here.
    """

    def __init__(self, models: SenseModels, limits: SensingLimits | None = None) -> None:
        self.models = models
        self._limits = limits or SensingLimits()
        folders = (models.image, models.sound, models.safety, models.weights)
        reads = [one for one in folders if one is not None]
        calls = CallProcess(
            __name__, _encode(self._setup()), launch_s=_START_S, reads=reads, decode=_answers.decode
        )
        self._turns = Turns(calls, self._rules(), "sense")

    @property
    def pid(self) -> int:
        """Process id of the child; 0 if there is none."""
        return self._turns.pid

    async def image(self, tenant: str, data: bytes) -> Seen:
        """Returns what is seen in an image: PNG, JPEG, WebP, or the first frame of a GIF.

        Raises:
            UnsupportedFile: the bytes are in none of the formats.
            InvalidFile: they are empty, damaged or too large, or take more than the limits.
            ModelNotFound: there is no image encoder; the fix is the command that makes it.
            InvalidModelFile: a model cannot be loaded.
            MissingDependency: the extra `images` is not installed.
            SensingBusy: too many wait.
            EngineUnavailable: the child could not run, or was closed; the image may be sound.
        """
        if self.models.image is None:
            raise ModelNotFound.of("space_image_missing")
        found = await self._looked(tenant, data)
        vector = np.frombuffer(found.vector, "<f4").astype(np.float32)
        named = self._vocabulary.of(vector)
        caption = named.caption
        return Seen(
            vector,
            named.tags,
            "" if caption is None else caption.name,
            "" if caption is None else caption.name_zh,
            found.width,
            found.height,
            found.unsafe,
            np.frombuffer(found.signs, "<f4").astype(np.float32),
        )

    async def look(self, tenant: str, data: bytes) -> Looked:
        """Returns the size of an image, and how unsafe it is. It needs no encoder. Raises as `image`."""
        found = await self._looked(tenant, data)
        return Looked(found.width, found.height, found.unsafe)

    async def unsafe(self, tenant: str, data: bytes) -> float:
        """Returns how likely an image is unsafe for work; -1 without the model. It needs no encoder. Raises as `image`."""
        return (await self._looked(tenant, data)).unsafe

    async def page(self, tenant: str, data: bytes) -> bytes:
        """Returns an image as a PDF of one page, for a parser of scanned pages. It needs no encoder. Raises as `image`."""
        if missing := _missing(tuple(IMAGE_MODULES)[:1]):
            raise MissingDependency.of("images_extra_missing", package=IMAGE_MODULES[missing])
        found = await self._ask(tenant, _Page(data))
        assert isinstance(found, _Printed)
        return found.data

    async def sound(self, tenant: str, data: bytes) -> NDArray[np.float32]:
        """Returns the vector of the speech in a recording of at most 30 seconds, a unit vector [384] of the space.

        Raises as `hear`.
        """
        return (await self.hear(tenant, data)).vector

    async def hear(self, tenant: str, data: bytes) -> Heard:
        """Returns what is heard in a recording of at most 30 seconds.

        Raises:
            UnsupportedFile: see `decode_audio`.
            InvalidFile: see `decode_audio`; or it has less than 0.04 s, or takes more than the limits.
            ModelNotFound: Whisper base is not here; the fix is the command that fetches it.
            MissingDependency: the extra `speech` is not installed.
            SensingBusy, InvalidModelFile, EngineUnavailable: as `image`.
        """
        if self.models.sound is None:
            raise ModelNotFound.of("space_sound_missing")
        if missing := _missing(SPEECH_MODULES):
            raise MissingDependency.of("speech_extra_missing", package=missing)
        found = await self._ask(tenant, _Sound(data))
        assert isinstance(found, _Heard)
        vector, signs = (np.frombuffer(one, "<f4").astype(np.float32) for one in (found.vector, found.signs))
        return Heard(vector, signs, found.seconds)

    def text(self, vector: NDArray[np.float32]) -> NDArray[np.float32]:
        """Returns where texts are in the space: unit vectors [.., 384].

        Args:
            vector: e5's vectors [.., 384] of texts, each behind `SpaceConfig.prefix`.
        """
        return unit(np.asarray(vector, np.float32) - self._centre)

    async def close(self) -> None:
        """Ends the child. The next file starts another."""
        await self._turns.close()

    @cached_property
    def _centre(self) -> NDArray[np.float32]:
        return SpaceWeights.centre_of(self.models.weights)

    @cached_property
    def _vocabulary(self) -> Vocabulary:
        own = self.models.weights
        return shipped_vocabulary() if own == SHIPPED else Vocabulary.read(own)

    async def _looked(self, tenant: str, data: bytes) -> _Seen:
        needed = tuple(IMAGE_MODULES) if self.models.image or self.models.safety else ("PIL",)
        if missing := _missing(needed):
            raise MissingDependency.of("images_extra_missing", package=IMAGE_MODULES[missing])
        found = await self._ask(tenant, _Image(data))
        assert isinstance(found, _Seen)
        return found

    async def _ask(self, tenant: str, request: _Image | _Sound | _Page) -> Any:
        async with self._turns.place(tenant):
            return await self._turns.ask(_encode(request))

    def _setup(self) -> _Setup:
        models, limits = self.models, self._limits
        heard = not _missing(SPEECH_MODULES)
        looked = not _missing(tuple(IMAGE_MODULES))
        return _Setup(
            _bytes(models.image if looked else None),
            _bytes(models.sound if heard else None),
            _bytes(models.safety if looked else None),
            _bytes(models.weights),
            limits.threads or usable_cpus(),
            limits.memory_bytes,
            limits.image_s,
            limits.sound_s,
        )

    def _rules(self) -> TurnRules:
        limits = self._limits
        megabytes, seconds = limits.memory_bytes >> 20, max(limits.image_s, limits.sound_s)

        def ended(error: CallEnded) -> DeepwellError:
            if error.killed or error.late or error.lost:
                return EngineUnavailable.of("space_ended", reason=str(error))
            return InvalidFile.of(
                "space_costly",
                megabytes=megabytes,
                seconds=f"{seconds:.0f}",
                reason=str(error),
                param="file",
            )

        return TurnRules(
            ended,
            lambda: SensingBusy.of("space_busy", most=MOST_REQUESTS),
            call_s=max(seconds, _GRACE_S),
            most=MOST_REQUESTS,
        )


def open_sensing(
    models_dir: Path, safety: Path | None = None, limits: SensingLimits | None = None
) -> Sensing:
    """Returns the sensing of the models in a store. No process starts yet.

    Args:
        safety: folder of the model that tells how unsafe an image is; None: nothing does.

    Raises:
        ModelNotFound: there is neither the image encoder nor Whisper base; the fix is the commands that bring them.
    """
    models = find_models(models_dir, safety)
    if models.image is None and models.sound is None:
        raise ModelNotFound.of("space_models_missing")
    return Sensing(models, limits)


def _bytes(path: Path | None) -> bytes:
    return b"" if path is None else os.fsencode(path.absolute())


def _packed(values: NDArray[np.float32]) -> bytes:
    return values.astype("<f4").tobytes()


def _path(data: bytes) -> Path:
    return Path(os.fsdecode(data))


def _missing(modules: tuple[str, ...]) -> str:
    """Returns the first module that is not installed; empty: all are. None is imported."""
    return next((name for name in modules if importlib.util.find_spec(name) is None), "")


class _Child:
    """The child's end."""

    def __init__(self) -> None:
        self._setup: _Setup | None = None

    def answer(self, body: bytes) -> bytes:
        try:
            if self._setup is None:
                return _encode(self._start(msgspec.msgpack.decode(body, type=_Setup)))
            request = _requests.decode(body)
            if isinstance(request, _Image):
                with limited(self._setup.image_s):
                    return _encode(self._see(request.data))
            if isinstance(request, _Page):
                with limited(self._setup.image_s):
                    return _encode(_Printed(page_of(request.data, _PAGE_SIDE)))
            with limited(self._setup.sound_s):
                return _encode(self._hear(request.data))
        except DeepwellError as error:
            return _encode(failure_of(0, error))
        except ImportError as error:
            return _encode(failure_of(0, MissingDependency.of("images_extra_missing", package=error.name)))
        except MemoryError:
            os.abort()  # little works after it; the parent starts another child
        except BaseException as error:
            reason = f"{type(error).__name__}: {str(error)[:200]}"
            return _encode(failure_of(0, InvalidFile.of("space_unreadable", reason=reason, param="file")))
        finally:
            trim_memory()

    def _start(self, setup: _Setup) -> _Started:
        sys.dont_write_bytecode = True
        os.environ["HF_HUB_OFFLINE"] = "1"
        os.nice(_NICE)
        limit_memory(setup.memory_bytes)
        if importlib.util.find_spec("PIL") is not None:
            prepare_images()
        if setup.sound:
            prepare_sounds()
        self._setup = setup
        return _Started()

    def _see(self, data: bytes) -> _Seen:
        assert self._setup is not None
        view = read_view(data, SIDE)
        unsafe = self._safety.score(view.look) if self._setup.safety else _UNKNOWN
        if not self._setup.image:
            return _Seen(b"", view.width, view.height, unsafe)
        encoder, head = self._image
        vectors, signs = head.sensed(encoder.encode(prepared_image(view.pixels)[None]))
        return _Seen(_packed(vectors[0]), view.width, view.height, unsafe, _packed(signs[0]))

    def _hear(self, data: bytes) -> _Heard:
        encoder, head = self._sound
        sound = decode_audio(data, MOST_SOUND_S)
        vector, signs = head.sensed(encoder.encode(sound.samples))
        return _Heard(_packed(vector), _packed(signs), sound.seconds)

    @cached_property
    def _weights(self) -> SpaceWeights:
        assert self._setup is not None
        return SpaceWeights.read(_path(self._setup.weights))

    @cached_property
    def _safety(self) -> SafetyModel:
        assert self._setup is not None
        return SafetyModel(_path(self._setup.safety), self._setup.threads)

    @cached_property
    def _image(self) -> tuple[ImageEncoder, ImageHead]:
        assert self._setup is not None
        return ImageEncoder(_path(self._setup.image), self._setup.threads), ImageHead(
            self._weights.part("image")
        )

    @cached_property
    def _sound(self) -> tuple[SoundEncoder, SoundHead]:
        assert self._setup is not None
        model = load_model(_path(self._setup.sound), self._setup.threads)
        return SoundEncoder(model), SoundHead(self._weights.part("sound"))


def main(descriptor: str) -> None:
    """Serves the parent until it closes the connection."""
    answer_calls(int(descriptor), _Child().answer)


if __name__ == "__main__":
    main(sys.argv[1])
