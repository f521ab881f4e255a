"""Reads the English prompts of Asterisk: recordings of 8 kHz by one speaker, with what is said in them (CC-BY-SA-3.0)."""

from __future__ import annotations

import gzip
import re
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final

from deepwell.bench.harness.assets import bench_cache
from deepwell.errors import DeepwellError, DownloadError

__all__ = ["Prompt", "asterisk_prompts", "read_transcripts"]

_SOUNDS: Final = "asterisk-core-sounds-en-wav"
_TEXTS: Final = "asterisk-core-sounds-en"
_FIX: Final = f"run `apt-get download {_SOUNDS} {_TEXTS}`"
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
    folder.mkdir(exist_ok=True)
    sounds, texts = (_package(name, folder) for name in (_SOUNDS, _TEXTS))
    (listed,) = [data for name, data in _members(texts) if name.endswith(_LIST)]
    said = read_transcripts(gzip.decompress(listed).decode("utf-8"))
    found = [
        Prompt(name, said[name], data)
        for path, data in _members(sounds)
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


def _package(name: str, folder: Path) -> Path:
    """Returns the Debian package in `folder`; asks apt for it if it is not there."""
    if found := sorted(folder.glob(f"{name}_*.deb")):
        return found[-1]
    try:
        done = subprocess.run(
            ["apt-get", "download", "-q", name], cwd=folder, capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        raise DownloadError(
            f"no apt-get here to fetch {name}",
            fix=f"{_FIX} on a Debian machine, and put the files into {folder}",
        ) from None
    found = sorted(folder.glob(f"{name}_*.deb"))
    if done.returncode or not found:
        reason = (done.stderr.strip() or "no reason given").splitlines()[-1]
        raise DownloadError(
            f"apt-get cannot fetch {name}: {reason}", fix=f"{_FIX}, and put the files into {folder}"
        )
    return found[-1]


def _members(deb: Path) -> Iterator[tuple[str, bytes]]:
    """Yields the files of a Debian package. Nothing of the package is run or unpacked."""
    with tempfile.TemporaryFile() as data:
        try:
            subprocess.run(["dpkg-deb", "--fsys-tarfile", str(deb)], stdout=data, check=True)
        except (FileNotFoundError, subprocess.CalledProcessError) as error:
            raise DeepwellError(
                f"dpkg-deb cannot read {deb.name}", fix=f"delete {deb}, and run it on Debian"
            ) from error
        data.seek(0)
        with tarfile.open(fileobj=data) as archive:
            for member in archive:
                if member.isfile() and (file := archive.extractfile(member)) is not None:
                    yield member.name, file.read()
