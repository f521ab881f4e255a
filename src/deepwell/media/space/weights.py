"""`SpaceWeights`: the trained heads, as they lie in a folder: `heads.safetensors` in 16 bits beside `config.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from deepwell.errors import InvalidModelFile

__all__ = ["SHIPPED", "SpaceConfig", "SpaceWeights"]

SHIPPED: Final = Path(__file__).parent / "weights"
"""The folder of the weights that come with Deepwell."""

_HEADS: Final = "heads.safetensors"
_CONFIG: Final = "config.json"
_MOST_BYTES: Final = 256 << 20
_MOST_CONFIG_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class SpaceConfig:
    """Facts about the training of the heads.

    Attributes:
        text_encoder: name of the model whose vectors of texts they fit.
        image_encoder: SHA-256 of the file that the image encoder was made from.
        sound_encoder: name of the recognition model whose encoder hears.
        prefix: text that stands before each text.
    """

    text_encoder: str = "e5-small-q4"
    image_encoder: str = ""
    sound_encoder: str = "whisper-base-f16"
    prefix: str = "query: "


class SpaceWeights:
    """The parameters of the heads, named `image.first.weight` and so on.

    Attributes:
        config: what they were trained with.
        tensors: float32 values by name.
    """

    def __init__(self, config: SpaceConfig, tensors: Mapping[str, NDArray[np.float32]]) -> None:
        self.config = config
        self.tensors = dict(tensors)

    def part(self, name: str) -> dict[str, NDArray[np.float32]]:
        """Returns the parameters of a head without its name; empty if it was not trained."""
        start = f"{name}."
        return {
            key.removeprefix(start): value for key, value in self.tensors.items() if key.startswith(start)
        }

    @staticmethod
    def read(folder: Path) -> SpaceWeights:
        """Returns the weights of a folder.

        Raises:
            InvalidModelFile: a file is missing, damaged or too large.
        """
        from safetensors.numpy import load_file

        try:
            if (folder / _HEADS).stat().st_size > _MOST_BYTES:
                raise ValueError(f"{_HEADS} is larger than {_MOST_BYTES >> 20} MB")
            with (folder / _CONFIG).open("rb") as file:
                fields: dict[str, Any] = json.loads(file.read(_MOST_CONFIG_BYTES))
            tensors = {name: value.astype(np.float32) for name, value in load_file(folder / _HEADS).items()}
            if not all(np.isfinite(value).all() for value in tensors.values()):
                raise ValueError("a weight is no finite number")
            return SpaceWeights(SpaceConfig(**fields), tensors)
        except Exception as error:  # safetensors' own class has no base to name
            reason = f"{type(error).__name__}: {str(error)[:200]}"
            raise InvalidModelFile.of("space_model_unusable", file=folder, reason=reason) from error

    @staticmethod
    def centre_of(folder: Path) -> NDArray[np.float32]:
        """Returns what the vectors of texts share, without the heads [384].

        Raises:
            InvalidModelFile: a file is missing or damaged.
        """
        from safetensors import safe_open

        try:
            with safe_open(folder / _HEADS, "numpy") as file:
                return file.get_tensor("centre").astype(np.float32)
        except Exception as error:  # safetensors' own class has no base to name
            reason = f"{type(error).__name__}: {str(error)[:200]}"
            raise InvalidModelFile.of("space_model_unusable", file=folder, reason=reason) from error

    def write(self, folder: Path) -> None:
        """Writes the weights, in 16 bits; a reader sees the old ones or the new ones."""
        from safetensors.numpy import save

        folder.mkdir(parents=True, exist_ok=True)
        halves = {name: value.astype(np.float16) for name, value in sorted(self.tensors.items())}
        for name, data in (
            (_HEADS, save(halves)),
            (_CONFIG, json.dumps(asdict(self.config), indent=1).encode() + b"\n"),
        ):
            partial = folder / f".{name}.partial"
            partial.write_bytes(data)
            partial.replace(folder / name)
