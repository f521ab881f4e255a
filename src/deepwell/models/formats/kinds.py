"""The kinds of models: text models run in the engine; recognition and speech models run in libraries of their own."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Final, Literal

__all__ = ["RECOGNITION_FILES", "SPEECH_MODEL", "ModelKind", "is_recognition_file", "kind_of"]

ModelKind = Literal["text", "recognition", "speech"]
"""Purpose of a model: to read and write text, to turn recordings into text, or text into speech."""

SPEECH_MODEL: Final = "kokoro-v1.0.int8.onnx"

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
_SPECIFICATION: Final = b"WhisperSpec\0"


def kind_of(path: Path) -> ModelKind:
    """Returns the kind of the model whose file or directory this is, from the names and headers of its files."""
    if not path.is_dir():
        return "text"
    if (path / SPEECH_MODEL).is_file():
        return "speech"
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
