"""Paragraphs of Debian's manual pages, English and Chinese."""

from __future__ import annotations

import gzip
import io
import json
import re
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from deepwell.bench.harness.assets import bench_cache
from deepwell.errors import DownloadError

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
                for page, source in _pages(_package(package, kept.parent), folder):
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


def _package(name: str, folder: Path) -> Path:
    if not sorted(folder.glob(f"{name}_*.deb")):
        done = subprocess.run(
            ["apt-get", "download", "-q", name], cwd=folder, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise DownloadError(
                f"apt could not fetch {name}: {done.stderr.strip()[-200:]}",
                fix=f"run `apt-get update`, then `apt-get download {name}` in {folder}",
            )
    return sorted(folder.glob(f"{name}_*.deb"))[-1]


def _pages(deb: Path, folder: str) -> Iterator[tuple[str, str]]:
    archive = subprocess.run(["dpkg-deb", "--fsys-tarfile", str(deb)], capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as members:
        for one in sorted(members, key=lambda found: found.name):
            if one.isfile() and folder in one.name and one.name.endswith(".gz"):
                held = members.extractfile(one)
                if held is not None:
                    page = gzip.decompress(held.read()).decode("utf-8", errors="replace")
                    yield Path(one.name).stem, page
