"""Every method of `client.audio` and `client.images`, called through the official SDK with strict validation."""

from __future__ import annotations

import inspect
import io
import json
from base64 import b64decode
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, get_args, get_type_hints

__all__ = ["NOT_SERVED", "REFUSED_FORMATS", "MediaTour", "Models", "methods_of"]

NOT_SERVED: Final = frozenset(
    {
        *(f"audio.voices.{one}" for one in ("create", "delete")),
        *(f"audio.voice_consents.{one}" for one in ("create", "retrieve", "update", "list", "delete")),
    }
)
"""Methods that a server refuses by name: it makes no voice from a recording."""
REFUSED_FORMATS: Final = frozenset({"diarized_json", "gif", "svg"})
"""Formats that a server refuses by name: it tells no speakers apart, and draws neither films nor lines."""

_TEXT: Final = "Good morning. The weather is fine today."
_BEGINNINGS: Final[dict[str, tuple[bytes, ...]]] = {
    "mp3": (b"ID3", b"\xff"),
    "opus": (b"OggS",),
    "aac": (b"\xff",),
    "flac": (b"fLaC",),
    "wav": (b"RIFF",),
    "pcm": (b"",),
}
_PICTURES: Final[dict[str, bytes]] = {"png": b"\x89PNG", "jpeg": b"\xff\xd8\xff", "webp": b"RIFF"}
_SMALL: Final[dict[str, Any]] = {"size": "256x256", "quality": "low", "extra_body": {"steps": 4, "seed": 7}}
_PROMPT: Final = "a red apple"


@dataclass(frozen=True, slots=True)
class Models:
    """The models of a tour; `translation` is a multilingual one."""

    speech: str
    transcription: str
    translation: str
    image: str


def methods_of(client: Any) -> set[str]:
    """Returns the methods of the SDK's resources `audio` and `images`, and of all below them, as the SDK has them."""
    return {f"{path}.{name}" for path, one in _resources(client) for name in _public(one)}


def _resources(client: Any) -> Iterator[tuple[str, Any]]:
    waiting = [("audio", client.audio), ("images", client.images)]
    for path, one in waiting:
        yield path, one
        children = {
            name: kind
            for name, kind in vars(type(one)).items()
            if not name.startswith(("_", "with_")) and not inspect.isfunction(kind)
        }
        waiting += [(f"{path}.{name}", getattr(one, name)) for name in sorted(children)]


def _public(resource: Any) -> list[str]:
    return [
        name
        for name, one in vars(type(resource)).items()
        if inspect.isfunction(one) and not name.startswith("_")
    ]


def _choices(owner: Any, name: str) -> list[str]:
    """Returns the values that the SDK's type of a parameter names."""
    found = get_type_hints(owner)[name]
    while not all(isinstance(one, str) for one in get_args(found)):
        found = next(one for one in get_args(found) if get_args(one))
    return list(get_args(found))


@dataclass(slots=True)
class MediaTour:
    """One client's way through the API.

    Attributes:
        done: methods and forms that were called, by the method.
        calls: calls that were made.
        problems: what was wrong with those that failed.
    """

    client: Any
    models: Models
    done: set[str] = field(default_factory=set[str])
    calls: int = 0
    problems: list[str] = field(default_factory=list[str])

    async def take(self) -> None:
        """Makes every call. One that fails does not end the others."""
        recording = await self._speech()
        await self._transcriptions(recording)
        await self._translations(recording)
        await self._images()
        await self._not_served()
        for name in sorted(methods_of(self.client) - self.done):
            self.calls += 1
            self.problems.append(f"{name}: the tour does not know it")

    async def _call(self, name: str, form: str, make: Callable[[], Awaitable[Any]]) -> Any:
        """Makes a call, and notes its end. Returns what `make` did; None: it failed."""
        self.done.add(name)
        self.calls += 1
        try:
            return await make()
        except Exception as error:
            self.problems.append(f"{name} {form}: {type(error).__name__}: {str(error)[:200]}")
            return None

    async def _speech(self) -> bytes:
        """Returns a recording of the text; empty: there is none."""
        from openai.types.audio import speech_create_params

        name, create = "audio.speech.create", self.client.audio.speech.create
        streaming = self.client.audio.speech.with_streaming_response.create
        same: dict[str, Any] = {"model": self.models.speech, "input": _TEXT, "voice": "alloy"}
        sounds: dict[str, bytes] = {}

        async def whole(format: str) -> None:
            data = (await _awaited(create(**same, response_format=format))).content
            assert len(data) > 2000 and data.startswith(_BEGINNINGS[format]), (
                f"{len(data)} bytes: no {format}"
            )
            sounds[format] = data

        async def parts() -> None:
            async with _entered(streaming(**same, response_format="pcm")) as answer:
                data = b"".join([part async for part in _each(answer.iter_bytes())])
            assert data == sounds["pcm"], "the stream has other sound"

        async def events() -> None:
            async with _entered(streaming(**same, response_format="pcm", stream_format="sse")) as answer:
                lines = [line async for line in _each(answer.iter_lines())]
            told = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: {")]
            assert [one["type"] for one in told] == ["speech.audio.delta"] * (len(told) - 1) + [
                "speech.audio.done"
            ]
            assert b"".join(b64decode(one["audio"]) for one in told[:-1]) == sounds["pcm"]
            assert all(
                isinstance(told[-1]["usage"][one], int)
                for one in ("input_tokens", "output_tokens", "total_tokens")
            )

        async def raw() -> None:
            answer = await _awaited(
                self.client.audio.speech.with_raw_response.create(**same, response_format="wav")
            )
            assert answer.headers["content-type"] == "audio/wav"

        for format in _choices(speech_create_params.SpeechCreateParams, "response_format"):
            await self._call(name, format, lambda format=format: whole(format))
        for form, make in (("streaming response", parts), ("sse", events), ("raw response", raw)):
            await self._call(name, form, make)
        return sounds.get("wav", b"")

    async def _transcriptions(self, recording: bytes) -> None:
        from openai.types.audio.transcription_create_params import TranscriptionCreateParamsBase

        name, create = "audio.transcriptions.create", self.client.audio.transcriptions.create
        same: dict[str, Any] = {"model": self.models.transcription}

        async def streamed() -> None:
            events = await _collected(create(file=_file(recording), stream=True, **same))
            assert events[-1].type == "transcript.text.done"
            assert "".join(one.delta for one in events[:-1]) == events[-1].text != ""

        async def timed() -> None:
            times: dict[str, Any] = {
                "response_format": "verbose_json",
                "timestamp_granularities": ["word", "segment"],
            }
            answer = await _awaited(create(file=_file(recording), **times, **same))
            assert answer.words and answer.segments, "no times"

        for format in _choices(TranscriptionCreateParamsBase, "response_format"):
            await self._call(
                name, format, lambda format=format: self._written(create, format, recording, same)
            )
        await self._call(name, "stream", streamed)
        await self._call(name, "times", timed)
        more: dict[str, Any] = {
            "language": "en",
            "prompt": "Weather",
            "temperature": 0.0,
            "chunking_strategy": "auto",
        }
        await self._call(name, "options", lambda: self._written(create, "json", recording, same | more))

    async def _translations(self, recording: bytes) -> None:
        from openai.types.audio.translation_create_params import TranslationCreateParams

        name, create = "audio.translations.create", self.client.audio.translations.create
        same: dict[str, Any] = {"model": self.models.translation}
        for format in _choices(TranslationCreateParams, "response_format"):
            await self._call(
                name, format, lambda format=format: self._written(create, format, recording, same)
            )

    async def _written(
        self, create: Callable[..., Any], format: str, recording: bytes, same: dict[str, Any]
    ) -> None:
        """Has the recording recognised in one format."""
        if format in REFUSED_FORMATS:
            await _refused(lambda: create(file=_file(recording), response_format=format, **same), 400)
            return
        answer = await _awaited(create(file=_file(recording), response_format=format, **same))
        assert isinstance(answer, str) == (format in ("text", "srt", "vtt")), f"{type(answer)} for {format}"
        text = answer if isinstance(answer, str) else answer.text
        assert "morning" in text.lower(), f"{text!r} for {_TEXT!r}"

    async def _images(self) -> None:
        from openai.types.image_generate_params import ImageGenerateParamsBase

        images, model = self.client.images, self.models.image
        drawn: list[bytes] = []

        async def drawing(method: Any, format: str = "png", **more: Any) -> None:
            if format in REFUSED_FORMATS:
                await _refused(lambda: method(model=model, **_SMALL, **more), 400)
                return
            answer = await _awaited(method(model=model, **_SMALL, **more))
            data = [b64decode(one.b64_json) for one in answer.data]
            assert len(data) == more.get("n", 1) and all(one.startswith(_PICTURES[format]) for one in data)
            drawn.extend(data)

        async def events(method: Any, kind: str, **more: Any) -> None:
            told = await _collected(
                method(model=model, prompt=_PROMPT, stream=True, partial_images=2, **_SMALL, **more)
            )
            assert [one.type for one in told] == [f"{kind}.partial_image"] * 2 + [f"{kind}.completed"]
            assert told[-1].usage.total_tokens > 0

        name, method = "images.generate", images.generate
        await self._call(name, "whole", lambda: drawing(method, prompt=_PROMPT, n=2, user="someone"))
        for format in _choices(ImageGenerateParamsBase, "output_format"):
            await self._call(
                name,
                format,
                lambda format=format: drawing(method, format, prompt=_PROMPT, output_format=format),
            )
        await self._call(name, "stream", lambda: events(method, "image_generation"))
        picture = next(iter(drawn), b"")
        image: dict[str, Any] = {"image": ("apple.png", picture)}
        name, method = "images.edit", images.edit
        await self._call(name, "whole", lambda: drawing(method, prompt=_PROMPT, **image))
        mask = ("mask.png", _mask())
        await self._call(name, "mask", lambda: drawing(method, prompt=_PROMPT, mask=mask, **image))
        await self._call(name, "stream", lambda: events(method, "image_edit", **image))
        name, method = "images.create_variation", images.create_variation
        small: dict[str, Any] = {"size": "256x256", "extra_body": {"steps": 4}}

        async def variation() -> None:
            answer = await _awaited(method(model=model, n=2, **small, **image))
            assert len(answer.data) == 2 and b64decode(answer.data[0].b64_json).startswith(_PICTURES["png"])

        await self._call(name, "whole", variation)

    async def _not_served(self) -> None:
        """Calls what no server has, and wants to be told so."""
        audio, sound = self.client.audio, ("voice.wav", b"RIFF")
        given: dict[str, dict[str, Any]] = {
            "audio.voices.create": {"name": "own", "consent": "cons_1", "audio_sample": sound},
            "audio.voices.delete": {"voice_id": "voice_1"},
            "audio.voice_consents.create": {"name": "own", "language": "en-US", "recording": sound},
            "audio.voice_consents.list": {},
            "audio.voice_consents.update": {"consent_id": "cons_1", "name": "own"},
            **{f"audio.voice_consents.{one}": {"consent_id": "cons_1"} for one in ("retrieve", "delete")},
        }
        for name in sorted(NOT_SERVED):
            _, resource, method = name.split(".")
            call = partial(getattr(getattr(audio, resource), method), **given[name])
            await self._call(name, "", lambda call=call: _refused(call, 404))


async def _refused(call: Callable[[], Any], status: int) -> None:
    """Makes a call that has to be refused with the reason."""
    from openai import APIStatusError

    told: APIStatusError | None = None
    try:
        await _awaited(call())
    except APIStatusError as error:
        told = error
    assert told is not None, "it was answered"
    assert told.status_code == status and " not s" in str(told.body), f"{told.status_code}: {told.body}"


async def _awaited(result: Any) -> Any:
    return await result if inspect.isawaitable(result) else result


async def _collected(result: Any) -> list[Any]:
    return [one async for one in _each(await _awaited(result))]


async def _each(items: Any) -> AsyncIterator[Any]:
    if hasattr(items, "__aiter__"):
        async for one in items:
            yield one
    else:
        for one in items:
            yield one


@asynccontextmanager
async def _entered(manager: Any) -> AsyncGenerator[Any]:
    """Enters a context manager of either kind of client."""
    if hasattr(manager, "__aenter__"):
        async with manager as entered:
            yield entered
    else:
        with manager as entered:
            yield entered


def _file(recording: bytes) -> tuple[str, bytes]:
    return "speech.wav", recording


def _mask() -> bytes:
    """Returns an image whose left half is transparent."""
    from PIL import Image

    image = Image.new("RGBA", (256, 256), (0, 0, 0, 255))
    image.paste((0, 0, 0, 0), (0, 0, 128, 256))
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()
