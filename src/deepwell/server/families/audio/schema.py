"""The forms of `/v1/audio/transcriptions` and `/v1/audio/translations`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

from deepwell.errors import InvalidRequest
from deepwell.media.recognition.options import RecognitionOptions, SpeechDetection
from deepwell.server.http.multipart import BINARY, Form, form_schema

__all__ = ["FORM_OF_TRANSCRIPTION", "FORM_OF_TRANSLATION", "LISTS", "RecognitionForm", "ResponseFormat"]

ResponseFormat = Literal["json", "text", "srt", "verbose_json", "vtt"]
_FORMATS: Final[tuple[str, ...]] = get_args(ResponseFormat)
_GRANULARITIES: Final = ("word", "segment")
_TIMES = "timestamp_granularities[]"
_INCLUDE = "include[]"
LISTS: Final = (_TIMES, _INCLUDE, "timestamp_granularities", "include")
"""Fields that may come more than once."""

_CHUNKING: Final = "chunking_strategy"
_DETECTION: Final = {
    f"{_CHUNKING}[threshold]": ("threshold", 0.0, 1.0),
    f"{_CHUNKING}[silence_duration_ms]": ("silence_ms", 0, 60_000),
    f"{_CHUNKING}[prefix_padding_ms]": ("padding_ms", 0, 10_000),
}
_SHARED: Final = {"model", "prompt", "response_format", "temperature"}
_TRANSCRIPTION: Final = _SHARED | {"language", "stream", _CHUNKING, f"{_CHUNKING}[type]", *_DETECTION}
_REFUSED: Final = {
    _INCLUDE: ("the model gives no log probabilities of tokens", "leave it out; verbose_json has those of segments"),
    "known_speaker_names": ("speakers are not told apart", "leave it out"),
    "known_speaker_references": ("speakers are not told apart", "leave it out"),
    "keywords": ("the model knows no keywords", "write the words into prompt"),
    "languages": ("one language is given, or it is detected", "send language, or leave both out"),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class RecognitionForm:
    """The request that a form makes.

    Attributes:
        model: name of the model.
        format: shape of the answer.
        stream: whether the text comes as events.
        segments, words: whether `verbose_json` has them.
    """

    model: str
    format: ResponseFormat
    options: RecognitionOptions
    stream: bool = False
    segments: bool = True
    words: bool = False

    @classmethod
    def of(cls, form: Form, *, translate: bool) -> RecognitionForm:
        """Reads a form.

        Raises:
            InvalidRequest: a field is missing, unknown, or has a value that is refused.
        """
        fields, lists = form.fields, _lists(form)
        _check_names({*fields, *lists}, _SHARED if translate else {*_TRANSCRIPTION, _TIMES})
        if not fields.get("model"):
            raise InvalidRequest(
                "missing parameter 'model'", fix="name one, such as whisper-tiny.en", param="model"
            )
        if not form.file.bytes:
            raise InvalidRequest.of("audio_empty", param="file")
        shape = _one_of(fields, "response_format", _FORMATS, "json")
        stream = _one_of(fields, "stream", ("true", "false", "True", "False"), "false").lower() == "true"
        if stream and shape not in ("json", "text"):
            raise InvalidRequest(
                f"a stream has text alone, and not {shape}",
                fix="send response_format json, or leave stream out",
                param="stream",
            )
        times = lists.get(_TIMES, [])
        if wrong := next((one for one in times if one not in _GRANULARITIES), None):
            raise _refused(_TIMES, wrong, _GRANULARITIES)
        if times and shape != "verbose_json":
            raise InvalidRequest(
                f"{shape} has no times of words and segments",
                fix="send response_format verbose_json",
                param=_TIMES,
            )
        options = RecognitionOptions(
            fields.get("language") or None,
            translate,
            fields.get("prompt", ""),
            _temperature(fields),
            "word" in times,
            _detection(fields),
        )
        return cls(fields["model"], shape, options, stream, not times or "segment" in times, "word" in times)  # pyright: ignore[reportArgumentType]


def _lists(form: Form) -> dict[str, list[str]]:
    """Returns the lists of a form by their name with brackets."""
    return {name if name.endswith("[]") else f"{name}[]": values for name, values in form.lists.items()}


def _check_names(names: set[str], known: set[str]) -> None:
    for name in sorted(names - known):
        plain = name.removesuffix("[]")
        if (why := _REFUSED.get(plain) or _REFUSED.get(f"{plain}[]")) is not None:
            raise InvalidRequest(f"{plain!r} is not supported: {why[0]}", fix=why[1], param=plain)
        raise InvalidRequest(f"unknown parameter {name[:64]!r}", fix="leave it out", param=name[:64])


def _one_of(fields: Mapping[str, str], name: str, known: tuple[str, ...], default: str) -> str:
    given = fields.get(name, default)
    if given == "diarized_json":
        raise InvalidRequest(
            "'diarized_json' is not supported: speakers are not told apart",
            fix="send verbose_json",
            param=name,
        )
    if given not in known:
        raise _refused(name, given, known)
    return given


def _refused(name: str, given: str, known: tuple[str, ...]) -> InvalidRequest:
    return InvalidRequest(
        f"{name} cannot be {given[:64]!r}", fix=f"send one of {', '.join(known)}", param=name
    )


def _temperature(fields: Mapping[str, str]) -> float | None:
    return None if "temperature" not in fields else _number(fields, "temperature", 0.0, 1.0)


def _number(fields: Mapping[str, str], name: str, low: float, high: float) -> float:
    try:
        value = float(fields[name])
    except ValueError:
        value = math.nan
    if not low <= value <= high:
        raise InvalidRequest(
            f"{name} cannot be {fields[name][:64]!r}",
            fix=f"send a number from {low:g} to {high:g}",
            param=name,
        )
    return value


def _detection(fields: Mapping[str, str]) -> SpeechDetection | None:
    """Returns the detection of speech that a form asks for: `auto`, or `server_vad` with its parameters."""
    plain, kind = fields.get(_CHUNKING), fields.get(f"{_CHUNKING}[type]")
    given = {name: one for name, one in _DETECTION.items() if name in fields}
    if plain is not None and (kind is not None or given):
        raise InvalidRequest(f"{_CHUNKING!r} comes twice", fix="send it once", param=_CHUNKING)
    if plain is not None:
        if plain != "auto":
            raise _refused(_CHUNKING, plain, ("auto", "an object of type server_vad"))
        return SpeechDetection()
    if kind is None and not given:
        return None
    if kind != "server_vad":
        raise _refused(f"{_CHUNKING}[type]", kind or "", ("server_vad",))
    values: dict[str, Any] = {}
    for name, (member, low, high) in given.items():
        number = _number(fields, name, low, high)
        values[member] = number if member == "threshold" else int(number)
    return SpeechDetection(**values)


_PROPERTIES: dict[str, Any] = {
    "file": BINARY | {"description": "The recording: WAV, MP3, M4A, MP4, AAC, FLAC, OGG, Opus, WebM, AIFF, AMR."},
    "model": {
        "type": "string",
        "description": "A recognition model of the store. `whisper-1` stands for that of the setting recognition_model.",
    },
    "prompt": {
        "type": "string",
        "description": "Text that the model takes for what was said before: names and their spelling.",
    },
    "response_format": {"type": "string", "enum": list(_FORMATS), "default": "json"},
    "temperature": {
        "type": "number",
        "minimum": 0,
        "maximum": 1,
        "description": "0: greedy, and higher temperatures where the text repeats or is unlikely.",
    },
}  # fmt: skip
FORM_OF_TRANSLATION = form_schema(_PROPERTIES, ["file", "model"])
FORM_OF_TRANSCRIPTION = form_schema(
    _PROPERTIES
    | {
        "language": {
            "type": "string",
            "description": "Code of the spoken language, such as `en` or `zh`; left out: it is detected.",
        },
        "stream": {
            "type": "boolean",
            "default": False,
            "description": "Whether the text comes as events while the recording is read.",
        },
        "timestamp_granularities[]": {
            "type": "array",
            "items": {"type": "string", "enum": list(_GRANULARITIES)},
            "description": "What `verbose_json` has the times of; left out: segments.",
        },
        "chunking_strategy": {
            "type": "string",
            "enum": ["auto"],
            "description": "`auto`, or the fields of `server_vad`: the model hears stretches of speech alone.",
        },
        "chunking_strategy[type]": {"type": "string", "enum": ["server_vad"]},
        "chunking_strategy[threshold]": {"type": "number", "minimum": 0, "maximum": 1},
        "chunking_strategy[silence_duration_ms]": {"type": "integer", "minimum": 0},
        "chunking_strategy[prefix_padding_ms]": {"type": "integer", "minimum": 0},
    },
    ["file", "model"],
)
