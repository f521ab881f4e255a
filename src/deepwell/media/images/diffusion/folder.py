"""The folder of a pipeline of diffusers, judged by its `model_index.json` before any library reads it.

A pipeline names a class for each of its parts. Only classes that diffusers and transformers themselves have are loaded, only
weights in safetensors, and no program that lies in the folder.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

from deepwell.errors import InvalidModelFile
from deepwell.media.images.protocol import DrawMode
from deepwell.models.formats.kinds import PIPELINE_FILE

__all__ = ["PIPELINES", "Pipeline", "is_pipeline", "read_pipeline", "weight_bytes"]

PIPELINES: Final[Mapping[str, Mapping[DrawMode, str]]] = {
    "StableDiffusionPipeline": {
        "text": "StableDiffusionPipeline",
        "image": "StableDiffusionImg2ImgPipeline",
        "mask": "StableDiffusionInpaintPipeline",
    },
    "StableDiffusionInpaintPipeline": {"mask": "StableDiffusionInpaintPipeline"},
    "StableDiffusionXLPipeline": {
        "text": "StableDiffusionXLPipeline",
        "image": "StableDiffusionXLImg2ImgPipeline",
        "mask": "StableDiffusionXLInpaintPipeline",
    },
    "StableDiffusionXLImg2ImgPipeline": {"image": "StableDiffusionXLImg2ImgPipeline"},
    "StableDiffusionXLInpaintPipeline": {"mask": "StableDiffusionXLInpaintPipeline"},
    "StableDiffusion3Pipeline": {
        "text": "StableDiffusion3Pipeline",
        "image": "StableDiffusion3Img2ImgPipeline",
        "mask": "StableDiffusion3InpaintPipeline",
    },
    "LatentConsistencyModelPipeline": {
        "text": "LatentConsistencyModelPipeline",
        "image": "LatentConsistencyModelImg2ImgPipeline",
    },
    "PixArtAlphaPipeline": {"text": "PixArtAlphaPipeline"},
    "PixArtSigmaPipeline": {"text": "PixArtSigmaPipeline"},
    "FluxPipeline": {"text": "FluxPipeline", "image": "FluxImg2ImgPipeline", "mask": "FluxInpaintPipeline"},
}
"""Class of a pipeline as its folder names it, and the classes of diffusers that draw with its parts."""

# `stable_diffusion` is a module of diffusers, which older folders name for the safety checker.
_LIBRARIES: Final = ("diffusers", "transformers", "stable_diffusion")
_PICKLED: Final = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".msgpack", ".h5")
_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,95}")
_MOST_BYTES: Final = 64 << 10


@dataclass(frozen=True, slots=True)
class Pipeline:
    """A pipeline whose folder was judged.

    Attributes:
        name: class of the pipeline.
        parts: names of its parts, which are folders.
    """

    folder: Path
    name: str
    parts: tuple[str, ...]

    @property
    def classes(self) -> Mapping[DrawMode, str]:
        """The classes of diffusers that draw with its parts."""
        return PIPELINES[self.name]


def is_pipeline(folder: Path) -> bool:
    """Returns whether a folder is one of a pipeline of diffusers."""
    return (folder / PIPELINE_FILE).is_file()


def weight_bytes(folder: Path) -> int:
    """Returns the size of all weights of a pipeline."""
    return sum(file.stat().st_size for file in folder.glob("*/*.safetensors") if file.is_file())


def read_pipeline(folder: Path) -> Pipeline:
    """Returns the pipeline in a folder.

    Raises:
        InvalidModelFile: its index cannot be read, its class is not one of `PIPELINES`, a part is a program of its own, or has
            weights that are not in safetensors.
    """
    index = _index(folder)
    name = index.get("_class_name")
    if not isinstance(name, str) or name not in PIPELINES:
        raise InvalidModelFile.of(
            "image_pipeline_class",
            folder=folder,
            name=str(name)[:96],
            known=", ".join(PIPELINES),
            param="model",
        )
    parts = [part for part, value in index.items() if _is_part(folder, part, value)]
    for part in parts:
        _check_weights(folder, part)
    return Pipeline(folder, name, tuple(parts))


def _index(folder: Path) -> dict[str, object]:
    try:
        with (folder / PIPELINE_FILE).open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
        if len(data) > _MOST_BYTES:
            raise ValueError(f"{PIPELINE_FILE} has more than {_MOST_BYTES >> 10} KiB")
        found: object = json.loads(data)
        if not isinstance(found, dict):
            raise ValueError(f"{PIPELINE_FILE} is no object")
    except (OSError, ValueError, RecursionError) as error:
        reason = str(error)[:200]
        raise InvalidModelFile.of(
            "image_pipeline_unusable", folder=folder, reason=reason, param="model"
        ) from None
    return cast("dict[str, object]", found)


def _is_part(folder: Path, part: str, value: object) -> bool:
    """Returns whether an entry of the index is a part: a library and a class. Others are options or left out."""
    if part.startswith("_") or not isinstance(value, list):
        return False
    pair = cast("list[object]", value)
    if pair == [None, None]:
        return False
    named = len(pair) == 2 and all(isinstance(one, str) and _NAME.fullmatch(one) for one in pair)
    known = named and pair[0] in _LIBRARIES and _NAME.fullmatch(part)
    # A pipeline within a part has an index that nobody has judged, and diffusers takes a program of the library's name for it.
    if not known or str(pair[1]).endswith("Pipeline") or (folder / part / f"{pair[0]}.py").exists():
        raise InvalidModelFile.of(
            "image_pipeline_code", folder=folder, part=part[:96], program=str(value)[:96], param="model"
        )
    return True


def _check_weights(folder: Path, part: str) -> None:
    names = sorted(file.name for file in (folder / part).glob("*"))
    pickled = [name for name in names if name.lower().endswith(_PICKLED)]
    if pickled and not any(name.endswith(".safetensors") for name in names):
        raise InvalidModelFile.of(
            "image_pipeline_pickled", folder=folder, file=f"{part}/{pickled[0]}", param="model"
        )
