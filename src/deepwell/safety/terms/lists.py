"""`TermList`: terms with their categories and tiers, as a plain file beside a manifest that says where it comes from."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, cast

from deepwell.errors import InvalidFile, TermListNotFound
from deepwell.safety.readings.tables import folded_term

__all__ = [
    "STARTER",
    "TIERS",
    "Term",
    "TermList",
    "Tier",
    "parsed",
    "read_list",
    "starter_list",
    "term_key",
    "tiered",
]

Tier = Literal["block", "flag", "ignore", "allow"]

TIERS: Final[tuple[Tier, ...]] = ("block", "flag", "ignore", "allow")
"""`block` and `flag` are found; `ignore` is not; a term inside of an `allow` term is not."""

STARTER: Final = "starter"
"""Name of the list that ships."""

TERMS_FILE: Final = "terms.tsv"
MANIFEST_FILE: Final = "manifest.json"
MAX_BYTES: Final = 16 << 20
_MAX_LENGTH: Final = 64
_BETWEEN_HAN: Final = re.compile(
    r"(?<=[\u3400-\u4dbf\u4e00-\u9fff])[^a-z0-9\u3400-\u4dbf\u4e00-\u9fff]+(?=[\u3400-\u4dbf\u4e00-\u9fff])"
)
_HAN: Final = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff]")
_SIGNS: Final = " .,;:!?*#@()[]{}<>\"'/|+=~^_-&%。、…·★●"
_SHORT_LATIN: Final = 4
_SHORTEST_LATIN: Final = 4
"""Letters and digits of a Latin term that may be found by itself: shorter ones are syllables and particles, such as `on`."""

_FOREIGN: Final = "pypi:"
_DIGEST: Final = 10


class Term(NamedTuple):
    """A term as it reads folded, its category and its tier."""

    text: str
    category: str
    tier: Tier


@dataclass(frozen=True, slots=True)
class TermList:
    """A list of terms.

    Attributes:
        name: the list is fetched and named in settings by it.
        terms: without repetitions.
        source: package and file, or `deepwell`.
        licence: of the source.
        sha256: of the source's file, or of the terms that ship.
    """

    name: str
    terms: Sequence[Term]
    source: str
    licence: str
    sha256: str

    def counts(self) -> dict[str, int]:
        """Returns the number of terms of each tier."""
        return {tier: sum(term.tier == tier for term in self.terms) for tier in TIERS}

    def write(self, folder: Path) -> None:
        """Writes the list into a folder of its name below `folder`. The manifest comes last, and makes it one."""
        directory = folder / self.name
        directory.mkdir(parents=True, exist_ok=True)
        lines = "".join(f"{term.text}\t{term.category}\t{term.tier}\n" for term in self.terms)
        (directory / TERMS_FILE).write_text(lines, encoding="utf-8")
        manifest = {key: value for key, value in asdict(self).items() if key != "terms"}
        manifest |= {"terms_sha256": hashlib.sha256(lines.encode()).hexdigest(), "counts": self.counts()}
        part = directory / f"{MANIFEST_FILE}.part"
        part.write_text(json.dumps(manifest, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
        part.replace(directory / MANIFEST_FILE)


def read_list(folder: Path, name: str) -> TermList:
    """Returns a list of this name: the one that ships, or one below `folder`.

    Raises:
        TermListNotFound: it is not there.
        InvalidFile: its file is not the one that its manifest describes.
    """
    if name == STARTER:
        return starter_list()
    directory = folder / name
    if (
        not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name)
        or not (directory / MANIFEST_FILE).is_file()
    ):
        raise TermListNotFound.of("terms_missing", name=name, folder=folder)
    try:
        manifest = cast("dict[str, Any]", json.loads((directory / MANIFEST_FILE).read_text(encoding="utf-8")))
        path = directory / TERMS_FILE
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"{path.name} has more than {MAX_BYTES} bytes")
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() != manifest["terms_sha256"]:
            raise ValueError(f"{path.name} is not the file of its manifest")
        terms = parsed(data.decode("utf-8"), str(path))
        if str(manifest["source"]).startswith(_FOREIGN):  # it may have been pulled by an earlier version
            terms = [one._replace(tier=_at_most(one.tier, one.text)) for one in terms]
        return TermList(name, terms, manifest["source"], manifest["licence"], manifest["sha256"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidFile.of("terms_damaged", name=name, folder=folder, reason=error) from error


@cache
def starter_list() -> TermList:
    """Returns the list that ships: about 200 terms in Chinese and English, written for Deepwell."""
    text = files("deepwell.safety").joinpath("data", "terms.tsv").read_text(encoding="utf-8")
    terms = parsed(text, "terms.tsv")
    return TermList(STARTER, terms, "deepwell", "Apache-2.0", hashlib.sha256(text.encode()).hexdigest())


def parsed(text: str, origin: str) -> list[Term]:
    """Returns the terms of lines of the form term, tab, category, tab, tier. A line that begins with # is a comment.

    Raises:
        InvalidFile: a line has another form; the message names it.
    """
    terms: dict[str, Term] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("# "):
            continue
        fields = line.split("\t")
        if len(fields) != 3 or fields[2] not in TIERS:
            raise InvalidFile(
                f"{origin}, line {number}: not a term, a category and a tier with tabs between them",
                fix=f"write the tier as one of {', '.join(TIERS)}",
            )
        key = term_key(fields[0])
        if key:
            terms.setdefault(key, Term(key, fields[1], cast("Tier", fields[2])))
    return list(terms.values())


def term_key(text: str) -> str:
    """Returns a term as it reads in folded and joined views, without signs around it and between Han characters."""
    key = folded_term(text)
    bare = key.strip(_SIGNS)
    key = bare if len(bare) > 1 else key
    return _BETWEEN_HAN.sub("", key) if _HAN.search(key) else key


def tiered(
    texts: Iterable[tuple[str, str]], default: Mapping[str, Tier], demoted: Mapping[str, Tier] | None = None
) -> list[Term]:
    """Returns terms of a foreign list with tiers that ordinary text bears.

    A single character is ignored, and so are fewer than four Latin letters. A word of two Han characters, or of four Latin
    letters, is an ordinary word too often: it is flagged at most. What `demoted` names by its digest occurs in ordinary text.

    Args:
        texts: term and category.
        default: tier by category; "block" for others.
        demoted: tier by `digest`; None: those that ship.
    """
    demoted = shipped_tiers() if demoted is None else demoted
    terms: dict[str, Term] = {}
    for text, category in texts:
        key = term_key(text)
        if not key or len(key) > _MAX_LENGTH or key in terms:
            continue
        tier: Tier = default.get(category, "block")
        if len(key) == 1 or key.isdigit():
            tier = "ignore"
        elif tier == "block" and (len(key) == 2 or (key.isascii() and len(key) <= _SHORT_LATIN)):
            tier = "flag"
        tier = _at_most(tier, key)
        other = demoted.get(digest(key), tier)
        if TIERS.index(other) > TIERS.index(tier):
            tier = other
        terms[key] = Term(key, category, tier)
    return list(terms.values())


def _at_most(tier: Tier, key: str) -> Tier:
    """Returns the tier of a foreign list's term, "ignore" if it is Latin and too short to mean anything by itself."""
    short = key.isascii() and sum(map(str.isalnum, key)) < _SHORTEST_LATIN
    return "ignore" if short and tier in ("block", "flag") else tier


def digest(key: str) -> str:
    """Returns the first ten hex digits of a term's SHA-256, by which `tiers.txt` names it."""
    return hashlib.sha256(key.encode()).hexdigest()[:_DIGEST]


@cache
def shipped_tiers() -> Mapping[str, Tier]:
    """Returns the tiers of terms that occur in ordinary text, by digest. `deepwell bench safety-terms --fit` finds them."""
    text = files("deepwell.safety").joinpath("data", "tiers.txt").read_text(encoding="utf-8")
    rows = (line.split() for line in text.splitlines() if line and not line.startswith("#"))
    return {row[0]: cast("Tier", row[1]) for row in rows}
