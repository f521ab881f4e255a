"""Reads the pictures that package registries carry: Noto emoji, Openclipart, Fashion-MNIST.

Sources: `emojibase-data` (npm, MIT) for names and tags in English and Chinese, `fonts-noto-color-emoji` (Debian, OFL-1.1) for
the drawings, `openclipart-svg` (Debian, public domain), `dataset-fashion-mnist` (Debian, MIT). Nothing of a package is run.
"""

from __future__ import annotations

import gzip
import io
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from deepwell.media.images.training.pictures import SIDE, Picture
from deepwell.models.store.debian import debian_members, debian_package
from deepwell.models.store.npm import NpmSource

__all__ = ["FASHION", "Drawn", "clip_art", "emoji", "fashion"]

_EMOJIBASE: Final = ("emojibase-data", "17.0.0")
_GLYPH_SIZE: Final = 109  # the one bitmap size of Noto Color Emoji

FASHION: Final = (
    ("T-shirt", "T恤"),
    ("trousers", "裤子"),
    ("pullover", "套头衫"),
    ("dress", "连衣裙"),
    ("coat", "外套"),
    ("sandal", "凉鞋"),
    ("shirt", "衬衫"),
    ("sneaker", "运动鞋"),
    ("bag", "包"),
    ("ankle boot", "短靴"),
)
"""The classes of Fashion-MNIST in their order, English and Chinese."""

_WORDINGS: Final = (
    "{}",
    "a grey photo of a {}",
    "fashion photo: {}",
    "a {} on white, grey photo",
    "clothes: one {}",
)
_WORDINGS_ZH: Final = ("{}", "一张{}的灰色照片", "服装照片：{}", "灰色的{}")


@dataclass(frozen=True, slots=True)
class Drawn:
    """A picture: what it shows, and uint8 of shape [128, 128, 3]."""

    row: Picture
    image: NDArray[np.uint8]


def on_white(image: Any) -> NDArray[np.uint8]:
    """Returns an image of Pillow on a white square of 128 pixels, uint8 of shape [128, 128, 3]."""
    from PIL import Image

    rgba = image.convert("RGBA")
    scale = SIDE / max(rgba.size)
    size = (max(1, round(rgba.width * scale)), max(1, round(rgba.height * scale)))
    if size != rgba.size:
        rgba = rgba.resize(size, Image.Resampling.LANCZOS)
    ground = Image.new("RGBA", (SIDE, SIDE), (255, 255, 255, 255))
    ground.alpha_composite(rgba, ((SIDE - size[0]) // 2, (SIDE - size[1]) // 2))
    return np.asarray(ground.convert("RGB"), np.uint8)


def emoji(cache: Path) -> Iterator[Drawn]:
    """Yields the emoji of Unicode without variants of skin tone, drawn by Noto Color Emoji.

    Raises:
        DownloadError: a package cannot be fetched.
    """
    from PIL import Image, ImageDraw, ImageFont

    english, chinese = (_annotations(cache, language) for language in ("en", "zh"))
    font_file = next(
        data
        for name, data in debian_members(debian_package("fonts-noto-color-emoji", cache))
        if name.endswith("NotoColorEmoji.ttf")
    )
    font = ImageFont.truetype(io.BytesIO(font_file), _GLYPH_SIZE)
    known = {one["hexcode"]: one for one in chinese}
    for one in english:
        if one.get("group") in (None, 2):  # letters of flags, and skin tones alone
            continue
        ground = Image.new("RGBA", (180, 180), (255, 255, 255, 0))
        ImageDraw.Draw(ground).text((20, 20), one["emoji"], font=font, embedded_color=True)
        box = ground.getbbox()
        if box is None:
            continue
        translated = known.get(one["hexcode"], {})
        row = Picture(
            one["hexcode"],
            "emoji",
            one["label"],
            (translated["label"],) if translated else (),
            tuple(one.get("tags", ())),
            tuple(translated.get("tags", ())),
        )
        yield Drawn(row, on_white(ground.crop(box)))


def _annotations(cache: Path, language: str) -> list[dict[str, Any]]:
    stored = cache / f"emojibase-{language}.json"
    if not stored.is_file():
        cache.mkdir(parents=True, exist_ok=True)
        source = NpmSource(*_EMOJIBASE, f"package/{language}/data.json")
        with tempfile.TemporaryDirectory(dir=cache) as scratch:
            fetched = source.fetch(Path(scratch), lambda label, done_bytes, total_bytes: None)
            (Path(scratch) / fetched.files[0]).replace(stored)
    return msgspec.json.decode(stored.read_bytes())


_TITLE: Final = re.compile(r"<dc:title(?:\s[^>]*)?>([^<]*)</dc:title>")
_CREATOR: Final = re.compile(
    r"<dc:(?:creator|rights|publisher)(?:\s[^>]*)?>.*?</dc:(?:creator|rights|publisher)>", re.S
)
_KEYWORD: Final = re.compile(r"<rdf:li(?:\s[^>]*)?>([^<]*)</rdf:li>")
_NO_PICTURE: Final = ("special/", "shapes/stars/", "computer/icons/", "signs_and_symbols/map_symbols/")
"""Patterns, 1,378 stars, and icons whose titles are names of programs."""

_NO_WORDS: Final = re.compile(
    r"^(?:unsorted|clip ?art|image|media|public domain|svg|png|openclipart.*|externalsource|hash.*)$"
)
_REPEATED: Final = 4
"""A title of more drawings is that of a collection."""

_MOST_SVG_BYTES: Final = 1 << 20
_BLANK: Final = 3.0  # standard deviation of pixels


def clip_art(cache: Path, progress: Callable[[int, int], None] = lambda done, all: None) -> Iterator[Drawn]:
    """Yields Openclipart's drawings that have a title; patterns, stars and icons of programs are left out.

    Raises:
        DownloadError: the package cannot be fetched.
    """
    root = "./usr/share/openclipart/svg/"
    found: list[tuple[Picture, str]] = []
    for path, data in debian_members(debian_package("openclipart-svg", cache)):
        name = path.removeprefix(root).removesuffix(".svg")
        if not path.endswith(".svg") or name.startswith(_NO_PICTURE) or len(data) > _MOST_SVG_BYTES:
            continue
        text = data.decode("utf-8", "replace")
        title, tags = _described(text)
        found.append((Picture(name, "clipart", title, (), tags), text))
    titles = Counter(row.title for row, _ in found)
    named = [(_renamed(row, text) if titles[row.title] > _REPEATED else row, text) for row, text in found]
    found = sorted((one for one in named if one[0].title), key=lambda one: one[0].name)
    with ProcessPoolExecutor(2) as pool:
        drawings = pool.map(_drawn, (text for _, text in found), chunksize=16)
        for done, ((row, _), image) in enumerate(zip(found, drawings, strict=True)):
            progress(done + 1, len(found))
            if image is not None:
                yield Drawn(row, image)


def _described(svg: str) -> tuple[str, tuple[str, ...]]:
    """Returns the title and the keywords of a drawing, its makers apart."""
    from html import unescape

    people = " ".join(_CREATOR.findall(svg)).lower()
    rest = _CREATOR.sub(" ", svg)
    title = next((clean for raw in _TITLE.findall(rest) if (clean := _plain(unescape(raw)))), "")
    tags: list[str] = []
    for raw in _KEYWORD.findall(rest):
        word = _plain(unescape(raw)).lower()
        if 1 < len(word) <= 32 and word not in people and not _NO_WORDS.match(word) and word not in tags:
            tags.append(word)
    if not re.search(r"[a-zA-Z]{3}", title):
        title = " ".join(tags[:3])
    return title[:80], tuple(tags[:10])


def _renamed(row: Picture, svg: str) -> Picture:
    """Returns a row with the name of its file as title, its maker apart: the title is that of a whole collection."""
    people = " ".join(_CREATOR.findall(svg)).lower()
    words = _plain(row.name.rsplit("/", 1)[-1]).lower().split()
    title = " ".join(word for word in words if len(word) > 1 and word not in people)
    return msgspec.structs.replace(row, title=title if len(title) > 2 else "")


def _plain(text: str) -> str:
    text = re.sub(r"[_\-/.]+", " ", text)
    text = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text)  # words that are written as one
    text = re.sub(r"\b(?:svg|png|\d{2,})\b|\d+$", " ", text)
    return " ".join(text.split())


def _drawn(svg: str) -> NDArray[np.uint8] | None:
    """Returns a drawing of SVG; None if it is broken or blank. Files that it names and fonts of the system are not opened."""
    import resvg_py  # pyright: ignore[reportMissingImports]
    from PIL import Image

    try:
        data = resvg_py.svg_to_bytes(svg_string=svg, width=2 * SIDE, skip_system_fonts=True)
        image = Image.open(io.BytesIO(bytes(data)))
        if max(image.size) > 16 * SIDE:
            return None
        box = image.convert("RGBA").getbbox()
        pixels = on_white(image.crop(box)) if box else None
    except (ValueError, OSError):
        return None
    return None if pixels is None or pixels.std() < _BLANK else pixels


def fashion(cache: Path, most: int) -> Iterator[Drawn]:
    """Yields `most` pictures of the training part of Fashion-MNIST, dark on white, the classes by turns.

    Raises:
        DownloadError: the package cannot be fetched.
    """
    from PIL import Image

    images, labels = fashion_arrays(cache, "train")
    per_class = [np.flatnonzero(labels == label)[: most // 10] for label in range(10)]
    for index in np.stack(per_class, 1).reshape(-1):
        label = int(labels[index])
        picture = Image.fromarray(255 - images[index]).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        english, chinese = FASHION[label]
        title = _WORDINGS[int(index) % len(_WORDINGS)].format(english)
        translated = _WORDINGS_ZH[int(index) % len(_WORDINGS_ZH)].format(chinese)
        family = f"fashion/{index}"
        row = Picture(f"train/{index}", "fashion", title, (translated,), family=family, label=label)
        yield Drawn(row, np.asarray(picture.convert("RGB"), np.uint8))


def fashion_arrays(cache: Path, part: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Returns images, uint8 [N, 28, 28], and labels, uint8 [N], of `train` or `t10k`.

    Raises:
        DownloadError: the package cannot be fetched.
    """
    members: Iterable[tuple[str, bytes]] = debian_members(debian_package("dataset-fashion-mnist", cache))
    files = {Path(name).name: data for name, data in members if name.endswith("-ubyte.gz")}
    images = gzip.decompress(files[f"{part}-images-idx3-ubyte.gz"])
    labels = gzip.decompress(files[f"{part}-labels-idx1-ubyte.gz"])
    return (
        np.frombuffer(images, np.uint8, offset=16).reshape(-1, 28, 28),
        np.frombuffer(labels, np.uint8, offset=8),
    )
