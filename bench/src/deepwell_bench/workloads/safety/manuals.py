"""Paragraphs of Debian's manual pages, English and Chinese."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from deepwell.models.store.debian import debian_members, debian_package
from deepwell_bench.harness.assets import bench_cache

__all__ = ["manual_paragraphs"]

PACKAGES: Final = {"manpages": "usr/share/man/man", "manpages-zh": "usr/share/man/zh_CN/man"}
_FONT: Final = re.compile(r"\\f(\(..|\[[^]]*\]|.)")
_ESCAPES: Final = {
    r"\-": "-",
    r"\(aq": "'",
    r"\(dq": '"',
    r"\e": "\\",
    r"\&": "",
    r"\(bu": "*",
    r"\ ": " ",
    r"\|": "",
}


def manual_paragraphs() -> list[tuple[str, str]]:
    """Returns pages and paragraphs of at least 80 characters, in order of pages. The first call asks apt for two packages.

    Raises:
        DownloadError: apt cannot fetch them; the fix is the command that does.
    """
    kept = bench_cache() / "safety" / "manuals.jsonl"
    if not kept.exists():
        kept.parent.mkdir(exist_ok=True)
        part = kept.with_suffix(".part")
        with part.open("w", encoding="utf-8") as target:
            for package, folder in PACKAGES.items():
                for page, source in _pages(debian_package(package, kept.parent), folder):
                    for paragraph in paragraphs_of(source):
                        target.write(json.dumps([f"{package}/{page}", paragraph], ensure_ascii=False) + "\n")
        part.replace(kept)
    with kept.open(encoding="utf-8") as lines:
        return [(page, text) for page, text in map(json.loads, lines)]


def paragraphs_of(source: str) -> Iterator[str]:
    """Yields the running text of a page in roff, without headings, tables and examples."""
    held: list[str] = []
    literal = False
    for line in [*source.splitlines(), ".PP"]:
        if line.startswith((".EX", ".nf", ".TS")):
            literal = True
        if line.startswith((".", "'")) or literal or not line.strip():
            word = line[1:3]
            if line.startswith((".EE", ".fi", ".TE")):
                literal = False
            if not literal and line.startswith(".") and word in {"B ", "I ", "BR", "IR", "BI", "RB", "RI"}:
                held.append(re.sub(r"^\.\w+ ", "", line).replace('"', ""))
                continue
            text = _plain(" ".join(held))
            held = []
            if len(text) >= 80:
                yield text
            continue
        held.append(line)


def _plain(text: str) -> str:
    text = _FONT.sub("", text)
    for escape, character in _ESCAPES.items():
        text = text.replace(escape, character)
    return " ".join(text.split())


def _pages(deb: Path, folder: str) -> Iterator[tuple[str, str]]:
    for name, data in sorted(debian_members(deb)):
        if folder in name and name.endswith(".gz"):
            yield Path(name).stem, gzip.decompress(data).decode("utf-8", errors="replace")
