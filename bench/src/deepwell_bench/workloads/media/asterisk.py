"""Reads the English prompts of Asterisk: recordings of 8 kHz by one speaker, with what is said in them (CC-BY-SA-3.0)."""

from __future__ import annotations

import gzip
import re
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from deepwell.models.store.debian import debian_members, debian_package
from deepwell_bench.harness.assets import bench_cache

__all__ = ["Prompt", "asterisk_prompts", "read_transcripts"]

_SOUNDS: Final = "asterisk-core-sounds-en-wav"
_TEXTS: Final = "asterisk-core-sounds-en"
_FOLDER: Final = "./usr/share/asterisk/sounds/en_US_f_Allison/"
_LIST: Final = "core-sounds-en.txt.gz"
_LINE: Final = re.compile(r"([\w./-]+): (.+)")
_SHOWN: Final = re.compile(r"\[[^\]]*\]")  # what is heard and not said, and signs beside their names


@dataclass(frozen=True, slots=True)
class Prompt:
    """A recording.

    Attributes:
        name: its place in the package, such as `digits/7`.
        text: the words that are said.
        wav: the file.
    """

    name: str
    text: str
    wav: bytes


def asterisk_prompts() -> tuple[list[Prompt], dict[str, str]]:
    """Returns the recordings in which something is said, by name, and the SHA-256 of each package.

    Raises:
        DownloadError: the packages are not there, and apt cannot fetch them; the fix is the command that does.
    """
    folder = bench_cache() / "asterisk"
    sounds, texts = (debian_package(name, folder) for name in (_SOUNDS, _TEXTS))
    (listed,) = [data for name, data in debian_members(texts) if name.endswith(_LIST)]
    said = read_transcripts(gzip.decompress(listed).decode("utf-8"))
    found = [
        Prompt(name, said[name], data)
        for path, data in debian_members(sounds)
        if path.endswith(".wav") and (name := path.removeprefix(_FOLDER).removesuffix(".wav")) in said
    ]
    packages = {deb.name: sha256(deb.read_bytes()).hexdigest() for deb in (sounds, texts)}
    return sorted(found, key=lambda one: one.name), packages


def read_transcripts(text: str) -> dict[str, str]:
    """Returns what is said in each recording of the list; those in which nothing is said are left out."""
    said: dict[str, str] = {}
    for line in text.splitlines():
        if (match := _LINE.fullmatch(line.strip())) and (words := _SHOWN.sub(" ", match[2]).strip()):
            said[match[1]] = " ".join(words.split())
    return said
