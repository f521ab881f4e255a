"""The kinds of models: text models run in the engine; those of sound and images run in libraries of their own."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Final, Literal, cast

__all__ = [
    "DRAWING_TYPE",
    "RECOGNITION_FILES",
    "SAFETY_MODEL",
    "SPEECH_MODEL",
    "ModelKind",
    "is_recognition_file",
    "kind_of",
]

ModelKind = Literal["text", "recognition", "speech", "image", "image-safety"]
"""Purpose of a model: to read and write text, to turn recordings into text, or text into speech or images, to judge images."""

SPEECH_MODEL: Final = "kokoro-v1.0.int8.onnx"
SAFETY_MODEL: Final = "open-nsfw.onnx"
DRAWING_TYPE: Final = "flow-transformer"
"""The `architecture` in the `config.json` of a model that draws."""

# The files of a Whisper model in the format of CTranslate2, whose `model.bin` is no pickle.
RECOGNITION_FILES: Final = frozenset(
    {
        "model.bin",
        "config.json",
        "tokenizer.json",
        "vocabulary.txt",
        "vocabulary.json",
        "preprocessor_config.json",
    }
)
_MOST_VERSION: Final = 16
_MOST_CONFIG_BYTES: Final = 64 << 10
_SPECIFICATION: Final = b"WhisperSpec\0"


def kind_of(path: Path) -> ModelKind:
    """Returns the kind of the model whose file or directory this is, from the names and headers of its files."""
    if not path.is_dir():
        return "text"
    if (path / SPEECH_MODEL).is_file():
        return "speech"
    if (path / SAFETY_MODEL).is_file():
        return "image-safety"
    if _draws(path / "config.json"):
        return "image"
    return "recognition" if is_recognition_file(path / "model.bin") else "text"


def is_recognition_file(path: Path) -> bool:
    """Returns whether a file is a Whisper model of CTranslate2: its version and the name of its specification begin it."""
    try:
        with path.open("rb") as file:
            header = file.read(6 + len(_SPECIFICATION))
    except OSError:
        return False
    if len(header) < 6 + len(_SPECIFICATION):
        return False
    version, length = struct.unpack_from("<IH", header)
    return 1 <= version <= _MOST_VERSION and length == len(_SPECIFICATION) and header[6:] == _SPECIFICATION


def _draws(config: Path) -> bool:
    try:
        with config.open("rb") as file:
            data = file.read(_MOST_CONFIG_BYTES)
        fields: object = json.loads(data) if DRAWING_TYPE.encode() in data else None
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(fields, dict) and cast("dict[str, object]", fields).get("architecture") == DRAWING_TYPE
