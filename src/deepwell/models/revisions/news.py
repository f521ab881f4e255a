"""The findings about the models of a store: one report of all, with the news of each source of each model."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from deepwell.errors import InvalidModelFile
from deepwell.messages import Language, catalogue, render

__all__ = ["REPORT_FILE", "Change", "FileChange", "ModelNews", "Report", "SourceNews", "State"]

REPORT_FILE: Final = ".updates.json"
"""Name of the newest report, in the folder of the model store."""

MAX_BYTES: Final = 32 << 20

State = Literal["new", "moved", "current", "unasked"]
"""Findings about a source or a model.

`new`: it has other files, licence, template or version than the stored model. `moved`: a new revision has the same files,
licence and template. `current`: nothing is new. `unasked`: no answer came, or nobody was asked.
"""

_ORDER: Final[tuple[State, ...]] = ("new", "moved", "current")

FileChangeKind = Literal["changed", "added", "removed"]


@dataclass(frozen=True, slots=True)
class FileChange:
    """One file that differs. Sizes and hashes that a source does not say are None; a hash is `ALGORITHM:HEX`."""

    name: str
    kind: FileChangeKind
    size_before: int | None
    size_now: int | None
    hash_before: str | None
    hash_now: str | None


@dataclass(frozen=True, slots=True)
class Change:
    """A value that differs: a licence, or the SHA-256 of a chat template; empty where there is none."""

    before: str
    now: str


@dataclass(frozen=True, slots=True)
class SourceNews:
    """The findings about one source of a model.

    Attributes:
        source: as `deepwell pull` takes it.
        before: revision that is stored; empty if the manifest does not know it.
        now: revision that the source has now; empty if it was not asked.
        changed: time of the newest revision, ISO 8601 in UTC; None: the source does not say it.
        files: the model's files that differ, sorted by name.
        licence: licences, if they differ.
        template: hashes of the chat template, if they differ.
        unsaid: facts that this kind of source does not tell: of `date`, `files`, `hashes`, `licence` and `template`.
        reason: why there is no answer; empty otherwise.
        fix: what to do about that.
        key: name of the reason in the catalogue of messages; empty if it has none.
        values: values of the placeholders of that message.
        fetch: source of the new revision, as `deepwell pull` takes it; empty if nothing is new.
    """

    source: str
    state: State
    before: str = ""
    now: str = ""
    changed: str | None = None
    files: tuple[FileChange, ...] = ()
    licence: Change | None = None
    template: Change | None = None
    unsaid: tuple[str, ...] = ()
    reason: str = ""
    fix: str = ""
    key: str = ""
    values: dict[str, str] = field(default_factory=dict[str, str])
    fetch: str = ""

    def said(self, language: Language) -> tuple[str, str]:
        """Returns the reason and its fix in a language; in English where the catalogue does not have them."""
        if self.key in catalogue():
            return render(self.key, language, self.values)
        return self.reason, self.fix


@dataclass(frozen=True, slots=True)
class ModelNews:
    """The findings about one model of the store."""

    name: str
    sources: tuple[SourceNews, ...]

    @property
    def state(self) -> State:
        """The strongest finding of its sources."""
        found = {one.state for one in self.sources}
        for state in _ORDER:
            if state in found:
                return state
        return "unasked"

    @property
    def newest(self) -> SourceNews | None:
        """The first source with something new; None: there is none."""
        return next((one for one in self.sources if one.state == "new"), None)


@dataclass(frozen=True, slots=True)
class Report:
    """The findings about all models of a store. `checked` is the time of the look, ISO 8601 in UTC."""

    checked: str
    models: tuple[ModelNews, ...]

    def to_json(self) -> dict[str, Any]:
        """Returns the report as JSON, with the state of each model."""
        models = [
            {"name": one.name, "state": one.state, "sources": [msgspec.to_builtins(s) for s in one.sources]}
            for one in self.models
        ]
        return {"checked": self.checked, "models": models}

    def write(self, root: Path) -> None:
        """Keeps the report in a model store, in place of the one before."""
        path = root / REPORT_FILE
        part = path.with_name(f"{path.name}.{os.getpid()}.part")
        part.write_text(json.dumps(self.to_json(), ensure_ascii=False) + "\n", encoding="utf-8")
        part.replace(path)

    def joined(self, other: Report) -> Report:
        """Returns this report with those models of an older one that it says nothing about."""
        known = {one.name for one in self.models}
        kept = tuple(one for one in other.models if one.name not in known)
        return Report(self.checked, tuple(sorted((*self.models, *kept), key=lambda one: one.name)))

    @classmethod
    def read(cls, root: Path) -> Report | None:
        """Returns the newest report of a model store; None: nobody has looked yet.

        Raises:
            InvalidModelFile: the file is damaged.
        """
        path = root / REPORT_FILE
        try:
            if path.stat().st_size > MAX_BYTES:
                raise InvalidModelFile(f"{path} has more than {MAX_BYTES} bytes", fix=f"delete {path}")
            return msgspec.json.decode(path.read_bytes(), type=cls)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.DecodeError, RecursionError) as error:
            raise InvalidModelFile(
                f"{path} is no report of updates: {error}", fix=f"delete {path}"
            ) from error
