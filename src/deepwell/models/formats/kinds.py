"""The kinds of models: text models run in the engine; those of sound and images run in libraries of their own."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Final, Literal, cast

__all__ = [
    "DRAWING_TYPE",
    "PIPELINE_FILE",
    "RECOGNITION_FILES",
    "SAFETY_MODEL",
    "SPEECH_MODEL",
    "ModelKind",
    "is_recognition_file",
    "kind_of",
    "piper_file",
]

ModelKind = Literal["text", "recognition", "speech", "image", "image-safety"]
"""Purpose of a model: to read and write text, to turn recordings into text, or text into speech or images, to judge images."""

SPEECH_MODEL: Final = "kokoro-v1.0.int8.onnx"
SAFETY_MODEL: Final = "open-nsfw.onnx"
DRAWING_TYPE: Final = "flow-transformer"
"""The `architecture` in the `config.json` of a model that draws."""
PIPELINE_FILE: Final = "model_index.json"
"""The file that names the parts of a pipeline of diffusers, each of which has a folder beside it."""

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
    if (path / SPEECH_MODEL).is_file() or piper_file(path) is not None:
        return "speech"
    if (path / SAFETY_MODEL).is_file():
        return "image-safety"
    if (path / PIPELINE_FILE).is_file() or _draws(path / "config.json"):
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


def piper_file(path: Path) -> Path | None:
    """Returns the one voice file of Piper in a directory, an `.onnx` with its `.onnx.json`; None: there is none, or several."""
    found = [file for file in path.glob("*.onnx") if file.with_name(f"{file.name}.json").is_file()]
    return found[0] if len(found) == 1 else None


def _draws(config: Path) -> bool:
    try:
        with config.open("rb") as file:
            data = file.read(_MOST_CONFIG_BYTES)
        fields: object = json.loads(data) if DRAWING_TYPE.encode() in data else None
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(fields, dict) and cast("dict[str, object]", fields).get("architecture") == DRAWING_TYPE
