"""The model store: one directory per model, each with a manifest, filled by `deepwell pull`.

A model appears under its name only when every byte has arrived and been checked. It is fetched into `.partial/NAME`,
which a later pull resumes after an interruption, and is renamed at the end. One lock per name separates two pulls.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import re
import shutil
import uuid
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any, Final, cast

from deepwell.errors import (
    DownloadError,
    InvalidModelFile,
    InvalidRequest,
    ModelNotFound,
    UnsupportedModel,
)
from deepwell.messages import nearest
from deepwell.models.formats.checkpoint import open_checkpoint
from deepwell.models.formats.e5 import e5_file_in, is_e5_file
from deepwell.models.formats.gguf import read_gguf_header
from deepwell.models.formats.kinds import DRAWING_TYPE, PIPELINE_FILE, kind_of, piper_file
from deepwell.models.formats.safetensors import read_json
from deepwell.models.store.catalog import CatalogEntry, shipped_catalog
from deepwell.models.store.download import Progress, hash_file, silent
from deepwell.models.store.fetched import Fetched, is_licence
from deepwell.models.store.filling import fetch_groups, first_sound, verify
from deepwell.models.store.manifest import Manifest
from deepwell.models.store.order import LastSource, alternatives
from deepwell.models.store.sources import PathSource, hub_sources, parse_source
from deepwell.models.text.tokenizer import read_chat_template
from deepwell.paths import user_path

__all__ = ["ModelStore", "StoredModel", "declared_licence"]

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}")


@dataclass(frozen=True, slots=True)
class StoredModel:
    """A model that can be opened. `path` is its `.gguf` or E5S1 file, or a directory with `config.json`.

    `manifest` is None for a path outside the store.
    """

    name: str
    path: Path
    manifest: Manifest | None


class ModelStore:
    """The models below `root`, which need not exist yet."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def names(self) -> list[str]:
        """Returns the name of every model, sorted. Directories without a manifest are not models."""
        if not self.root.is_dir():
            return []
        names = sorted(d.name for d in self.root.iterdir() if _NAME.fullmatch(d.name))
        return [name for name in names if (self.root / name / "manifest.json").is_file()]

    def is_taken(self, name: str) -> bool:
        """Returns whether a model has this name, or an interrupted pull that may go on."""
        return name in self.names() or (self.root / ".partial" / name).is_dir()

    @staticmethod
    def can_hold(name: str) -> bool:
        """Returns whether a model of the store may have this name."""
        return _NAME.fullmatch(name) is not None

    def get(self, name: str) -> StoredModel:
        """Returns the model of this name.

        Raises:
            ModelNotFound: the model is not in the store; the fix is the command that fetches it.
            InvalidModelFile: the manifest is damaged.
        """
        if not _NAME.fullmatch(name) or not (self.root / name / "manifest.json").is_file():
            raise _not_found(name, self.root)
        directory = self.root / name
        return StoredModel(name, _openable(directory), Manifest.read(directory))

    def resolve(self, name_or_path: str | Path) -> StoredModel:
        """Returns the stored model of this name, or the `.gguf` file or model directory at this path.

        Raises:
            ModelNotFound: there is neither.
        """
        text = str(name_or_path)
        if _NAME.fullmatch(text) and (self.root / text / "manifest.json").is_file():
            return self.get(text)
        path = user_path(text)
        if path.exists() and ("/" in text or path.is_file() or isinstance(name_or_path, Path)):
            name = path.resolve().stem if path.is_file() else path.resolve().name
            return StoredModel(name, path if path.is_file() else _openable(path), None)
        if text.endswith(".gguf") or text.startswith(("/", "./", "../", "~")):
            raise ModelNotFound.of("model_path_missing", path=text)
        if (path / "config.json").is_file():
            raise ModelNotFound.of("model_folder_name", name=text, root=self.root)
        raise _not_found(text, self.root)

    def remove(self, name: str) -> None:
        """Deletes a model, and the remains of an interrupted pull of it.

        Raises:
            ModelNotFound: neither exists.
        """
        directory, partial = self.root / name, self.root / ".partial" / name
        if not _NAME.fullmatch(name) or not (directory.is_dir() or partial.is_dir()):
            raise _not_found(name, self.root)
        with self._locked(name, silent):
            for path in (directory, partial):
                if path.is_dir():
                    _discard(path, self.root)

    def drop_partial(self, name: str) -> None:
        """Deletes the remains of an interrupted pull, unless a pull of this name is under way."""
        partial = self.root / ".partial" / name
        if not _NAME.fullmatch(name) or not partial.is_dir():
            return
        lock = self.root / ".locks" / name
        lock.parent.mkdir(parents=True, exist_ok=True)
        with lock.open("w") as file, suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(partial, ignore_errors=True)

    def pull(
        self,
        source_or_name: str,
        *,
        name: str | None = None,
        catalog: Mapping[str, CatalogEntry] | None = None,
        offline: bool = False,
        progress: Progress = silent,
        check: Callable[[Path], None] | None = None,
    ) -> StoredModel:
        """Fetches a catalog name or a source (see `sources`) into the store. A model that is already there is kept.

        Args:
            name: name in the store, instead of the catalog's or the source's own.
            catalog: further entries, which take precedence over the shipped ones.
            offline: use only what is in the store or at a local path.
            check: raises for a model that is of no use; it gets the path before the model is in the store.

        Raises:
            InvalidRequest: the text is neither a known name nor a source, or no model can have the name.
            DownloadError: the source failed, or `offline` forbids it; received bytes stay for the next attempt.
            InvalidModelFile: the model is not sound; what was fetched is deleted.
            UnsupportedModel: as `check` says; what was fetched is deleted.
        """
        entries = {**shipped_catalog(), **(catalog or {})}
        entry = entries.get(source_or_name) or _entry_of(source_or_name, entries)
        name = entry.name if name is None else name
        if not _NAME.fullmatch(name):
            raise InvalidRequest(
                f"{name!r} cannot be a model's name",
                fix="use letters, digits, dots, hyphens and underscores (--name)",
            )
        self.root.mkdir(parents=True, exist_ok=True)
        with self._locked(name, progress):
            if (self.root / name / "manifest.json").is_file():
                stored = self.get(name)
                if stored.manifest and _is_from(stored.manifest, entry):
                    return stored
                raise InvalidRequest(
                    f"the store already has another {name!r}",
                    fix=f"choose a name with --name, or run `deepwell models remove {name}`",
                )
            sources = [parse_source(text) for text in entry.every_source]
            if offline and not all(isinstance(source, PathSource) for source in sources):
                raise DownloadError.of("offline_set", name=name)
            first = sources[0]
            if (
                check is not None
                and isinstance(first, PathSource)
                and first.path.exists()
                and entry.kind == "text"
            ):
                check(_openable(first.path))  # before gigabytes are copied
            return self._fill(name, entry, progress, check)

    def _fill(
        self, name: str, entry: CatalogEntry, progress: Progress, check: Callable[[Path], None] | None
    ) -> StoredModel:
        partial = self.root / ".partial" / name
        partial.mkdir(parents=True, exist_ok=True)
        last = LastSource(self.root / ".last-source")
        order = last.sort(alternatives(entry))
        try:
            if entry.groups:
                source, fetched = fetch_groups(entry, partial, last, progress)
                manifest = _checked(name, entry, partial, source, fetched, check)
            else:
                manifest = first_sound(
                    entry,
                    partial,
                    order,
                    progress,
                    lambda source, fetched: _checked(name, entry, partial, source, fetched, check),
                )
        except UnsupportedModel:
            shutil.rmtree(partial)
            raise
        if len(order) > 1:
            last.remember(manifest.source)
        kept = {PurePosixPath(file.name).parts[0] for file in manifest.files}
        for path in partial.iterdir():
            if path.name not in kept:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        manifest.write(partial)
        target = self.root / name
        if target.exists():  # a directory without a manifest, made by something else
            _discard(target, self.root)
        partial.rename(target)
        return self.get(name)

    @contextmanager
    def _locked(self, name: str, progress: Progress) -> Generator[None]:
        path = self.root / ".locks" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                progress(f"waiting for another pull of {name}", 0, None)
                fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _entry_of(text: str, entries: Mapping[str, CatalogEntry]) -> CatalogEntry:
    """Returns the entry of a source that no catalog has."""
    if sources := hub_sources(text):
        return CatalogEntry(parse_source(sources[0]).name, "", "", sources=sources)
    try:
        source = parse_source(text)
    except InvalidRequest:
        if right := nearest(text, entries):
            raise InvalidRequest.of("source_near", text=text, right=right) from None
        raise
    if isinstance(source, PathSource):  # a manifest outlives the working directory
        text = str(source.path.resolve())
        return CatalogEntry(source.name, "", "", sources=(text,), kind=kind_of(source.path))
    return CatalogEntry(source.name, "", "", sources=(text,))


def _not_found(name: str, root: Path) -> ModelNotFound:
    if name in shipped_catalog():
        return ModelNotFound.of("model_not_pulled", name=name, root=root)
    stored = [path.parent.name for path in root.glob("*/manifest.json")] if root.is_dir() else []
    if right := nearest(name, (*stored, *shipped_catalog())):
        return ModelNotFound.of("model_near", name=name, root=root, right=right)
    return ModelNotFound.of("model_unknown", name=name, root=root, known=", ".join(shipped_catalog()))


def _is_from(manifest: Manifest, entry: CatalogEntry) -> bool:
    """Returns whether a pull of `entry` would fetch what the manifest lists.

    A model that a catalog brought before it named the commit is the same model.
    """
    if entry.pins and entry.pins == {f.name: f.sha256 for f in manifest.files if not is_licence(f.name)}:
        return True
    sources = alternatives(entry)
    if entry.summary:
        sources += tuple(re.sub(r"@[0-9a-f]{40}(?=#|$)", "", source) for source in entry.sources)
    if manifest.source not in sources:
        return False
    path = Path(manifest.source)
    return not path.is_file() or [f.sha256 for f in manifest.files] == [hash_file(path)]


def _discard(path: Path, root: Path) -> None:
    """Removes a directory so that no reader sees it partly deleted."""
    trash = root / f".trash-{uuid.uuid4().hex}"
    path.rename(trash)
    shutil.rmtree(trash)


def _openable(directory: Path) -> Path:
    if (directory / "config.json").is_file():
        return directory
    ggufs = sorted(directory.glob("*.gguf"))
    if not ggufs and (file := e5_file_in(directory)) is not None:
        return file
    return ggufs[0] if len(ggufs) == 1 else directory


def _checked(
    name: str,
    entry: CatalogEntry,
    directory: Path,
    source: str,
    fetched: Fetched,
    check: Callable[[Path], None] | None,
) -> Manifest:
    """Returns the manifest of fetched files.

    Raises:
        InvalidModelFile: they are not what the entry pins, or no sound model.
        UnsupportedModel: as `check` says.
    """
    files = verify(directory, fetched, entry)
    found = kind_of(directory)
    if found != entry.kind:
        raise InvalidModelFile(
            f"{name} should be a {entry.kind} model, but its files are those of a {found} model"
        )
    if check is not None and found == "text":
        check(_openable(directory))
    return Manifest(
        name=name,
        source=source,
        revision=fetched.revision,
        files=files,
        licence=entry.licence or fetched.licence or _licence_of(directory, fetched),
        architecture=_architecture(directory),
        template_hash=_template_hash(_openable(directory)) if found == "text" else None,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        pinned=tuple(sorted(entry.pins)),
        prompts=entry.prompts,
    )


_ARCHITECTURES: Final = {
    "recognition": "whisper",
    "speech": "kokoro",
    "image": DRAWING_TYPE,
    "image-safety": "open_nsfw",
}


def _architecture(directory: Path) -> str:
    if (directory / PIPELINE_FILE).is_file():
        return "diffusers"
    if piper_file(directory) is not None:
        return "piper"
    if (kind := kind_of(directory)) != "text":
        return _ARCHITECTURES[kind]
    path = _openable(directory)
    if is_e5_file(path):
        return open_checkpoint(path).config.architecture
    if path.is_file():
        value = read_gguf_header(path).metadata.get("general.architecture")
    else:
        value = _config(directory).get("model_type")
    if not isinstance(value, str) or not value:
        raise InvalidModelFile(f"{path.name} does not say which architecture it has")
    return value


def _config(directory: Path) -> Mapping[str, Any]:
    path = directory / "config.json"
    try:
        if path.stat().st_size > 4 << 20:
            raise InvalidModelFile("config.json has more than 4 MiB")
        value: object = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidModelFile(f"no config.json that can be read: {error}") from error
    if not isinstance(value, dict):
        raise InvalidModelFile("config.json is not an object")
    return cast("dict[str, Any]", value)


def _licence_of(directory: Path, fetched: Fetched) -> str:
    paths = [directory / name for name in fetched.files if name.endswith(".gguf")] or [directory]
    return declared_licence(paths[0])


def declared_licence(path: Path) -> str:
    """Returns the licence that a model's own files name, a GGUF header or the record of a compressed folder; else empty."""
    if path.suffix == ".gguf":
        value = read_gguf_header(path).metadata.get("general.license")
        return value if isinstance(value, str) else ""
    record = path / "deepwell.json"
    value = read_json(record).get("license") if record.is_file() else None
    return value if isinstance(value, str) else ""


def _template_hash(path: Path) -> str | None:
    template = read_chat_template(path)
    return None if template is None else hashlib.sha256(template.encode("utf-8", "surrogatepass")).hexdigest()
