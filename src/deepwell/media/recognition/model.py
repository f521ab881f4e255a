"""`RecognitionModel`: the folder of a Whisper model in CTranslate2's format, as it lies on the disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from deepwell.errors import InvalidModelFile

__all__ = ["RecognitionModel", "is_recognition_folder"]

_WEIGHTS: Final = "model.bin"
_FILES: Final = (_WEIGHTS, "config.json", "tokenizer.json")
_VOCABULARIES: Final = ("vocabulary.json", "vocabulary.txt")


def is_recognition_folder(folder: Path) -> bool:
    """Returns whether a folder holds the files of a recognition model. None of them is opened."""
    return all((folder / name).is_file() for name in _FILES) and any(
        (folder / name).is_file() for name in _VOCABULARIES
    )


@dataclass(frozen=True, slots=True)
class RecognitionModel:
    """A recognition model.

    Attributes:
        name: the name that requests give it.
        folder: the folder of its files.
    """

    name: str
    folder: Path

    @classmethod
    def of(cls, name: str, folder: Path) -> RecognitionModel:
        """Returns the model in a folder.

        Raises:
            InvalidModelFile: a file of a recognition model is missing.
        """
        if not is_recognition_folder(folder):
            needed = ", ".join((*_FILES, " or ".join(_VOCABULARIES)))
            raise InvalidModelFile.of("recognition_model_files", folder=folder, files=needed, param="model")
        return cls(name, folder)

    @property
    def weight_bytes(self) -> int:
        """Size of its weights."""
        return (self.folder / _WEIGHTS).stat().st_size
