"""Check of the supply chain: the served models are the files that were pulled, byte by byte."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

from deepwell.errors import DeepwellError
from deepwell.models.store.catalog import vouching_entry
from deepwell.models.store.manifest import Manifest, ModelFile
from deepwell.models.store.store import ModelStore
from deepwell.safety.compliance.checks import Fact, Outcome, Words, failed, passed
from deepwell.safety.compliance.context import Context, Progress

__all__ = ["models_are_as_pulled"]

_MOST_BYTES: Final = 16 << 30  # of one model: more are not hashed, but their sizes compared
_PIECE: Final = 8 << 20


def models_are_as_pulled(context: Context) -> Outcome:
    """Compares the files of the served models with the hashes of their manifests, and tells where each comes from."""
    settings = context.settings
    store = ModelStore(settings.models_dir)
    names = [settings.model, *settings.additional_models]
    if settings.embedding_model is not None:
        names.append(settings.embedding_model)
    facts: list[Fact] = []
    holds = True
    for name in dict.fromkeys(names):
        label = Words(f"model {name}", f"模型 {name}")
        try:
            found = store.resolve(name)
        except DeepwellError as error:
            holds = False
            facts.append(Fact(label, f"{error.message}; {error.fix}"))
            continue
        if found.manifest is None:
            holds = False
            told = f"{found.path}: not in the store, so that nothing vouches for it"
            facts.append(Fact(label, Words(told, f"{found.path}：不在模型库中，没有可核对的哈希")))
            continue
        directory = found.path if found.path.is_dir() else found.path.parent
        wrong = _differing(directory, found.manifest, context.progress)
        holds = holds and not wrong
        facts.append(Fact(label, _told(found.manifest, wrong)))
    return passed(*facts) if holds else failed(*facts)


def _differing(directory: Path, manifest: Manifest, progress: Progress) -> list[str]:
    """Returns the files that are not those of the manifest."""
    hashed = manifest.size_bytes <= _MOST_BYTES
    wrong: list[str] = []
    done = 0
    for file in manifest.files:
        path = directory / file.name
        whole = path.is_file() and path.stat().st_size == file.size_bytes
        if not whole or (hashed and _sha256(path, file, manifest, done, progress) != file.sha256):
            wrong.append(file.name)
        done += file.size_bytes
    return wrong


def _sha256(path: Path, file: ModelFile, manifest: Manifest, done: int, progress: Progress) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while piece := stream.read(_PIECE):
            digest.update(piece)
            done += len(piece)
            progress(f"sha256 {manifest.name}", done, manifest.size_bytes)
    return digest.hexdigest()


def _told(manifest: Manifest, wrong: list[str]) -> Words:
    origin = f"{manifest.source} {manifest.revision}".strip()
    digest = hashlib.sha256("".join(sorted(file.sha256 for file in manifest.files)).encode()).hexdigest()
    hashed = manifest.size_bytes <= _MOST_BYTES
    pinned = vouching_entry(manifest) is not None
    english = [
        f"{len(manifest.files)} files, {manifest.size_bytes} bytes, from {origin}",
        f"hashes together {digest[:16]}",
        "pinned by the catalog" if pinned else "pinned by the pull alone, not by the catalog",
        "sha256 compared" if hashed else "sizes compared alone: too large to hash here",
    ]
    chinese = [
        f"{len(manifest.files)} 个文件，{manifest.size_bytes} 字节，来自 {origin}",
        f"哈希合并值 {digest[:16]}",
        "由模型清单固定" if pinned else "仅由拉取时的记录固定，不在模型清单中",
        "已核对 SHA-256" if hashed else "文件过大，仅核对大小",
    ]
    if wrong:
        english.append(f"DIFFERENT: {', '.join(wrong)}")
        chinese.append(f"不一致：{', '.join(wrong)}")
    return Words("; ".join(english), "；".join(chinese))
