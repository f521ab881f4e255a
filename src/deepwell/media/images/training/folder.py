"""A user's own pictures: a folder of image files, each with its caption."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from deepwell.errors import InvalidRequest
from deepwell.media.images.training.pictures import Picture, PictureSet
from deepwell.media.images.training.sources import on_white

__all__ = ["folder_pictures"]

CAPTIONS: Final = "captions.jsonl"
_ENDINGS: Final = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp")
_FIX: Final = (
    'write captions.jsonl with lines like {"file": "cat.png", "caption": "a grey cat", "caption_zh": "一只灰猫"}, '
    "or cat.txt beside cat.png"
)


class _Line(msgspec.Struct, forbid_unknown_fields=True):
    file: str
    caption: str = ""
    caption_zh: str = ""
    tags: tuple[str, ...] = ()


def folder_pictures(folder: Path) -> PictureSet:
    """Returns the pictures of a folder with their captions, all of them for training.

    `captions.jsonl` names the files and their captions; without it, `cat.txt` holds the caption of `cat.png`.

    Raises:
        InvalidRequest: a file is missing or no picture, or there are none; the fix shows the form.
    """
    from PIL import Image

    rows: list[Picture] = []
    images: list[np.ndarray[Any, np.dtype[np.uint8]]] = []
    for line in _lines(folder):
        path = folder / line.file
        if not path.resolve().is_relative_to(folder.resolve()):
            raise InvalidRequest(f"{line.file} is outside {folder}", fix="name files of the folder")
        try:
            with Image.open(path) as image:
                images.append(on_white(image))
        except (OSError, ValueError, Image.DecompressionBombError) as error:
            raise InvalidRequest(
                f"{path} is no picture: {error}", fix="remove it, or convert it to PNG"
            ) from error
        titles_zh = (line.caption_zh,) if line.caption_zh else ()
        rows.append(Picture(line.file, folder.name, line.caption, titles_zh, line.tags, family=line.file))
    if not rows:
        raise InvalidRequest(f"{folder} holds no pictures with captions", fix=_FIX)
    return PictureSet(rows, np.stack(images))


def _lines(folder: Path) -> Iterator[_Line]:
    captions = folder / CAPTIONS
    if captions.is_file():
        decoder = msgspec.json.Decoder(_Line)
        for number, text in enumerate(captions.read_bytes().splitlines(), 1):
            if text.strip():
                try:
                    yield decoder.decode(text)
                except msgspec.MsgspecError as error:
                    raise InvalidRequest(f"{captions}, line {number}: {error}", fix=_FIX) from error
        return
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        said = path.with_suffix(".txt")
        if path.suffix.lower() in _ENDINGS and said.is_file():
            yield _Line(path.name, said.read_text(encoding="utf-8").strip())
