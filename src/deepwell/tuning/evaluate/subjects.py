"""The models and adapters that are evaluated, opened as `deepwell.llm` serves them."""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from deepwell.errors import InvalidRequest, ModelNotFound
from deepwell.settings import Settings

if TYPE_CHECKING:
    from deepwell.llm import LLM
    from deepwell.llm.arguments import Options

__all__ = ["Subject", "SubjectName", "open_subjects", "parse_subject"]

_CONFIG = "adapter_config.json"


@dataclass(frozen=True, slots=True)
class SubjectName:
    """A model, or an adapter on it.

    Attributes:
        label: the name that tables show.
        model: a name in the store, or a path.
        adapter: folder of the adapter; None: the model alone.
    """

    label: str
    model: str
    adapter: Path | None = None


@dataclass(frozen=True, slots=True)
class Subject:
    """A model that is open, with the name under which its adapter is loaded; empty: none.

    Attributes:
        at_once: rows that are asked together, between two reports of progress.
    """

    name: SubjectName
    llm: LLM
    adapter: str = ""
    at_once: int = 32


def parse_subject(text: str, *, adapters: Path | None = None) -> SubjectName:
    """Returns the model, and the adapter, that `MODEL` or `MODEL:ADAPTER` name.

    Args:
        text: a name in the store or a path; behind a colon, a folder in peft's format or a name in `adapters`.
        adapters: the folder of adapters; None: the setting `adapter_dir`.

    Raises:
        ModelNotFound: there is no such adapter.
    """
    model, colon, adapter = text.rpartition(":")
    if not colon or not model or Path(text).exists():
        return SubjectName(text, text)
    if not adapter:
        raise InvalidRequest(f"{text!r} names no adapter", fix="write MODEL, or MODEL:ADAPTER")
    root = adapters or Settings.load().adapter_dir
    places = [Path(adapter), Path(adapter) / "adapter", *([root / adapter] if root else [])]
    for place in places:
        if (place / _CONFIG).is_file():
            return SubjectName(text, model, place)
    raise ModelNotFound.of("evaluate_adapter", param="adapter", name=adapter)


@contextmanager
def open_subjects(names: Sequence[SubjectName], options: Options) -> Generator[list[Subject]]:
    """Opens one model with the adapters of all names, which must be of that model. It closes at the end.

    Raises:
        ModelNotFound, InsufficientMemory, InvalidModelFile, UnsupportedModel: see `LLM`.
    """
    from deepwell.llm import LLM  # brings the engine, which a server may have in another process

    folders = {_loaded_name(name.adapter): name.adapter for name in names if name.adapter is not None}
    with LLM(names[0].model, adapters=folders, **options) as llm:
        yield [Subject(name, llm, _loaded_name(name.adapter) if name.adapter else "") for name in names]


def _loaded_name(folder: Path | None) -> str:
    """Returns a name that tells adapters apart whose folders are called alike."""
    assert folder is not None
    return f"{folder.name}-{hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:8]}"
