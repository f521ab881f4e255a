"""A set of captioned pictures: `images.npy`, uint8 of shape [N, side, side, 3], beside `pictures.jsonl`, a `Picture` a line."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Final, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from deepwell.errors import InvalidRequest

__all__ = ["SIDE", "Picture", "PictureSet", "Split"]

SIDE: Final = 128
"""Pixels of a side in the set."""

Split = Literal["train", "development", "held-out", "unused"]
_STYLES: Final = {"emoji": ("emoji", "表情符号"), "clipart": ("clip art", "剪贴画")}
_IMAGES: Final = "images.npy"
_ROWS: Final = "pictures.jsonl"


class Picture(msgspec.Struct, frozen=True):
    """A picture's description.

    Attributes:
        name: name within its source, such as `1F600` or `animals/cat`.
        source: `emoji`, `clipart`, `fashion`, or the name of a user's folder.
        title: short English caption; empty if there is none.
        titles_zh: short Chinese captions.
        tags: English words about it.
        tags_zh: Chinese words about it.
        family: name of its family of near-duplicates and of one concept; no family is on both sides of a split.
        split: the part of the set that it belongs to.
        label: class number of a labelled source; -1 otherwise.
    """

    name: str
    source: str
    title: str
    titles_zh: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    tags_zh: tuple[str, ...] = ()
    family: str = ""
    split: Split = "train"
    label: int = -1

    def captions(self) -> list[str]:
        """Returns the texts that describe it in English and in Chinese, the short ones first."""
        found = [self.title] if self.title else []
        found += self.titles_zh
        if self.tags:
            found.append(": ".join(part for part in (self.title, ", ".join(self.tags)) if part))
        if self.tags_zh:
            found.append("：".join((*self.titles_zh[:1], "，".join(self.tags_zh))))
        return found

    def prompts(self) -> list[str]:
        """Returns the texts from which it is drawn: the captions, and the short ones with the name of the style."""
        styles = _STYLES.get(self.source)
        if styles is None:
            return self.captions()
        styled = [f"{styles[0]}: {self.title}"] if self.title else []
        return [*self.captions(), *styled, *(f"{styles[1]}：{title}" for title in self.titles_zh)]


class PictureSet:
    """The pictures of a folder.

    Attributes:
        rows: a description for each picture.
        images: uint8 of shape [N, side, side, 3], mapped from the file.
    """

    def __init__(self, rows: Sequence[Picture], images: NDArray[np.uint8]) -> None:
        self.rows = list(rows)
        self.images = images

    @staticmethod
    def read(folder: Path) -> PictureSet:
        """Returns the set of a folder.

        Raises:
            InvalidRequest: the folder holds none.
        """
        try:
            images = np.load(folder / _IMAGES, mmap_mode="r", allow_pickle=False)
            rows = msgspec.json.Decoder(Picture).decode_lines((folder / _ROWS).read_bytes())
        except (OSError, ValueError, msgspec.MsgspecError) as error:
            raise InvalidRequest(
                f"{folder} holds no pictures: {error}",
                fix="`deepwell media train image` without a folder makes the set",
            ) from error
        if images.ndim != 4 or images.shape[0] != len(rows) or images.dtype != np.uint8:
            raise InvalidRequest(f"{folder}: {_IMAGES} and {_ROWS} do not fit", fix="make the set anew")
        return PictureSet(rows, images)

    def write(self, folder: Path) -> None:
        """Writes the set; a reader sees the old set or the new one."""
        folder.mkdir(parents=True, exist_ok=True)
        lines = msgspec.json.Encoder().encode_lines(self.rows)
        partial = folder / f"{_IMAGES}.partial.npy"
        np.save(partial, self.images)
        partial.replace(folder / _IMAGES)
        (folder / f"{_ROWS}.partial").write_bytes(lines)
        (folder / f"{_ROWS}.partial").replace(folder / _ROWS)

    def where(self, *splits: Split, sources: Iterable[str] | None = None) -> list[int]:
        """Returns the indices of the pictures of these splits, and of these sources if they are named."""
        wanted = None if sources is None else set(sources)
        return [
            index
            for index, row in enumerate(self.rows)
            if row.split in splits and (wanted is None or row.source in wanted)
        ]

    def fingerprint(self, *splits: Split) -> str:
        """Returns the SHA-256 over names, captions and pixels of these splits, so that a split can be frozen."""
        digest = sha256()
        for index in self.where(*splits):
            row = self.rows[index]
            digest.update(f"{row.source}\0{row.name}\0{row.split}\0".encode())
            digest.update("\0".join(row.captions()).encode())
            digest.update(np.ascontiguousarray(self.images[index]).tobytes())
        return digest.hexdigest()
