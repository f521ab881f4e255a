"""`RecognitionModel`: the folder of a Whisper model in CTranslate2's format, as it lies on the disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from deepwell.errors import InvalidModelFile
from deepwell.models.formats.kinds import kind_of

__all__ = ["RecognitionModel"]

_WEIGHTS: Final = "model.bin"
_FILES: Final = (_WEIGHTS, "config.json", "tokenizer.json")
_VOCABULARIES: Final = ("vocabulary.json", "vocabulary.txt")


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
            InvalidModelFile: a file of a recognition model is missing, or its weights are no Whisper model.
        """
        whole = all((folder / one).is_file() for one in _FILES)
        vocabulary = any((folder / one).is_file() for one in _VOCABULARIES)
        if not (whole and vocabulary and kind_of(folder) == "recognition"):
            needed = ", ".join((*_FILES, " or ".join(_VOCABULARIES)))
            raise InvalidModelFile.of("recognition_model_files", folder=folder, files=needed, param="model")
        return cls(name, folder)

    @property
    def weight_bytes(self) -> int:
        """Size of its weights."""
        return (self.folder / _WEIGHTS).stat().st_size
