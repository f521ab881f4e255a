"""Reads the LibreOffice help in English and Chinese: paragraphs that share an id are translations of each other."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path

from deepwell.errors import MissingDependency
from deepwell.models.store.debian import debian_members, debian_package
from deepwell_bench.harness.assets import bench_cache

__all__ = [
    "CORPUS_SHA256",
    "HelpParagraph",
    "HelpPassage",
    "HelpSource",
    "align",
    "help_passages",
    "help_source",
    "read_pages",
]

PACKAGES = {"en": "libreoffice-help-en-us", "zh": "libreoffice-help-zh-cn"}
_FOLDERS = {"en": "en-US", "zh": "zh-CN"}
_INSTALLED = Path("/usr/share/libreoffice/help")

CORPUS_SHA256 = "d9fd064724ddcade26e5c783ae7e137ae08e489d789d25019ce38e7662824f8b"
"""Digest of the aligned passages of LibreOffice 25.2's help, as Debian 13 has it."""


@dataclass(frozen=True, slots=True)
class HelpPassage:
    """A paragraph or heading of the help in both languages.

    Attributes:
        id: page and id of the paragraph, as in `text/scalc/01/04060100.html#par_id31`.
        page: path of the page, below the folder of its language.
        title_en, title_zh: title of the page.
        heading_en, heading_zh: the nearest heading above; empty for a heading at the top of a page.
        english, chinese: the two texts.
        also: ids of other paragraphs with the same two texts.
    """

    id: str
    page: str
    title_en: str
    title_zh: str
    heading_en: str
    heading_zh: str
    english: str
    chinese: str
    also: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class HelpSource:
    """The origin of the passages.

    Attributes:
        packages: SHA-256 of each Debian package by its file name; empty for an installed copy.
        aligned: number of ids that both languages have, with text.
        corpus: SHA-256 of the passages. The same text gives the same digest, whatever package brought it.
    """

    packages: dict[str, str]
    aligned: int
    corpus: str


@dataclass(frozen=True, slots=True)
class HelpParagraph:
    """A paragraph or heading of one language.

    Attributes:
        page, id: its place.
        title: title of the page.
        heading: the nearest heading above.
        text: what a reader sees, without line breaks.
        embedded: true if the page borrows it from another one.
    """

    page: str
    id: str
    title: str
    heading: str
    text: str
    embedded: bool


def help_passages() -> list[HelpPassage]:
    """Returns the unique pairs of paragraphs, in the order of pages. The first call fetches and reads them: a minute.

    Raises:
        DownloadError: the packages are not there, and apt cannot fetch them; the fix is the command that does.
        MissingDependency: the parser of HTML is not installed.
    """
    path = _prepared()
    with path.open(encoding="utf-8") as lines:
        return [_passage(json.loads(line)) for line in lines]


def help_source() -> HelpSource:
    """Returns where the passages came from. Raises as `help_passages`."""
    path = _prepared()
    return HelpSource(**json.loads(path.with_name("source.json").read_text(encoding="utf-8")))


def read_pages(pages: Iterator[tuple[str, bytes]]) -> dict[tuple[str, str], HelpParagraph]:
    """Returns the paragraphs with an id of one language, by page and id; the first of each id of a page.

    Args:
        pages: paths of pages below the folder of the language, and their HTML.

    Raises:
        MissingDependency: selectolax is not installed.
    """
    try:
        from selectolax.lexbor import LexborHTMLParser
    except ImportError as error:
        raise MissingDependency(
            "the LibreOffice help needs selectolax", fix="run `pip install 'deepwell[knowledge]'`"
        ) from error
    found: dict[tuple[str, str], HelpParagraph] = {}
    for page, html in pages:
        tree = LexborHTMLParser(html.decode("utf-8"))
        # The variant for macOS stands beside the one for other systems; a reader sees one of them.
        for variant in tree.css("span.switchinline > span.MAC"):
            variant.decompose()
        title_node = tree.css_first("title")
        title = _clean(title_node.text()) if title_node else ""
        heading = ""
        for node in tree.css("p[id], h1[id], h2[id], h3[id], h4[id], h5[id], h6[id]"):
            text = _clean(node.text())
            key = (page, str(node.attributes["id"]))
            if text and key not in found:
                found[key] = HelpParagraph(page, key[1], title, heading, text, _is_embedded(node))
            if text and node.tag != "p":
                heading = text
    return found


def _prepared() -> Path:
    """Returns the file of passages; makes it if it is not there."""
    folder = bench_cache() / "libreoffice-help"
    path = folder / "passages.jsonl"
    if path.exists():
        return path
    folder.mkdir(exist_ok=True)
    packages: dict[str, str] = {}
    if all((_INSTALLED / name / "text").is_dir() for name in _FOLDERS.values()):
        texts = {language: read_pages(_installed(language)) for language in PACKAGES}
    else:
        debs = {language: debian_package(name, folder) for language, name in PACKAGES.items()}
        packages = {deb.name: _digest(deb) for deb in debs.values()}
        texts = {language: read_pages(_pages(language, deb)) for language, deb in debs.items()}
    passages, aligned = align(texts["en"], texts["zh"])
    part = path.with_suffix(".part")
    with part.open("w", encoding="utf-8") as target:
        for passage in passages:
            target.write(json.dumps(asdict(passage), ensure_ascii=False) + "\n")
    source = HelpSource(packages, aligned, _digest(part))
    path.with_name("source.json").write_text(json.dumps(asdict(source)), encoding="utf-8")
    part.replace(path)
    return path


def align(
    english: dict[tuple[str, str], HelpParagraph], chinese: dict[tuple[str, str], HelpParagraph]
) -> tuple[list[HelpPassage], int]:
    """Returns one passage a pair of texts, and the number of ids that both languages have.

    Pairs whose Chinese side was never translated are left out. A paragraph that a page borrows from another page is
    placed where it belongs.
    """
    places: dict[tuple[str, str], list[tuple[str, str]]] = {}
    aligned = 0
    for key, one in english.items():
        other = chinese.get(key)
        if other is None:
            continue
        aligned += 1
        if _has_han(other.text) and other.text != one.text:
            places.setdefault((one.text, other.text), []).append(key)
    passages: list[HelpPassage] = []
    for (text_en, text_zh), keys in places.items():
        first = min(keys, key=lambda key: english[key].embedded)
        one, other = english[first], chinese[first]
        also = tuple("#".join(key) for key in keys if key != first)
        passages.append(
            HelpPassage(
                "#".join(first),
                one.page,
                one.title,
                other.title,
                one.heading,
                other.heading,
                text_en,
                text_zh,
                also,
            )
        )
    return passages, aligned


def _installed(language: str) -> Iterator[tuple[str, bytes]]:
    root = _INSTALLED / _FOLDERS[language]
    for path in sorted((root / "text").rglob("*.html")):
        yield path.relative_to(root).as_posix(), path.read_bytes()


def _pages(language: str, deb: Path) -> Iterator[tuple[str, bytes]]:
    """Yields the pages of a Debian package in the order of their paths."""
    root = f"./usr/share/libreoffice/help/{_FOLDERS[language]}/"
    pages = {
        name.removeprefix(root): data
        for name, data in debian_members(deb)
        if name.startswith(root + "text/") and name.endswith(".html")
    }
    yield from sorted(pages.items())


def _is_embedded(node: object) -> bool:
    parent = getattr(node, "parent", None)
    while parent is not None:
        if parent.attributes.get("class") == "embedded":
            return True
        parent = parent.parent
    return False


def _clean(text: str) -> str:
    return " ".join(text.split())


def _has_han(text: str) -> bool:
    return any("\u4e00" <= character <= "\u9fff" for character in text)


def _digest(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest()


def _passage(fields: dict[str, object]) -> HelpPassage:
    return HelpPassage(**{**fields, "also": tuple(fields["also"])})  # pyright: ignore[reportArgumentType, reportCallIssue]
