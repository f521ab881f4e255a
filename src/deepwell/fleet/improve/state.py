"""The state of an alias's improvement, in one file that is replaced whole: the round under way, and how the last one ended."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import quote, unquote

import msgspec

from deepwell.errors import DeepwellError, InvalidRequest

__all__ = [
    "BY",
    "STAGES",
    "Outcome",
    "Round",
    "Stage",
    "State",
    "StateFile",
    "folders_in",
    "loop_folder",
    "replace_file",
]

BY: Final = "improve"
"""Name of the loop in the ledger."""

Stage = Literal["train", "measure", "register", "serve", "canary", "ended"]
Outcome = Literal["promoted", "refused", "rolled_back", "aborted"]
_LOOPS, _STATE = "improve", "state.json"
STAGES: Final = ("train", "measure", "register", "serve", "canary", "ended")
"""Stages of a round, in order. Votes are collected and curated before the first."""


@dataclass(slots=True)
class Round:
    """One candidate on its way.

    Attributes:
        number: number of the round, which the names of its folder and of the candidate have.
        base, current, model: the model trained on, the name that serves now, and that of the candidate.
        adapter: name of the artefact's folder in that of the round, once it is trained.
        sha256: hash of the artefact that was measured.
        version: id in the registry, once it is registered.
        rollout: id of the roll-out, once it has started.
        votes: counts of the votes that were curated.
        outcome, reason: how it ended, and why.
    """

    number: int
    base: str
    current: str
    model: str
    stage: Stage = "train"
    adapter: str = ""
    sha256: str = ""
    version: str = ""
    rollout: str = ""
    votes: dict[str, int] = field(default_factory=dict[str, int])
    outcome: Outcome | None = None
    reason: str = ""


@dataclass(slots=True)
class State:
    """All that is remembered between two runs.

    Attributes:
        salt: decides which users are held out, the same ones in every round; random, so that nobody can choose a side.
        used: ids of the votes that the last round had.
        rounds: number of rounds that were begun.
    """

    salt: str
    rounds: int = 0
    round: Round | None = None
    used: list[str] = field(default_factory=list[str])


class StateFile:
    """The state file of a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._path = folder / _STATE

    @contextmanager
    def locked(self) -> Generator[None]:
        """Holds the folder for this process alone.

        Raises:
            DeepwellError: another process works here.
        """
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with (self.folder / ".lock").open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise DeepwellError.of("improve_busy", folder=str(self.folder)) from None
            yield

    def read(self) -> State | None:
        """Returns the state; None: there is none yet.

        Raises:
            InvalidRequest: the file is none of this version.
        """
        try:
            text = self._path.read_bytes()
        except FileNotFoundError:
            return None
        try:
            told: Any = msgspec.json.decode(text)
            state = msgspec.convert(told, State)
            known = {*_names(State), *(() if state.round is None else _names(Round))}
            if not {*told, *(told.get("round") or ())} <= known:
                raise ValueError
            return state
        except (msgspec.MsgspecError, ValueError, RecursionError):
            raise InvalidRequest.of("improve_state", path=str(self._path)) from None

    def write(self, state: State) -> None:
        """Replaces the state. A process that is killed meanwhile leaves the one before."""
        values = {one.name: getattr(state, one.name) for one in fields(state)}
        values["round"] = None if state.round is None else asdict(state.round)
        replace_file(self._path, json.dumps(values, ensure_ascii=False, indent=1) + "\n")

    def begin(self) -> State:
        """Returns the state, a new one if there is none."""
        state = self.read()
        if state is None:
            state = State(salt=secrets.token_hex(16))
            self.write(state)
        return state


def _names(kind: type[State] | type[Round]) -> set[str]:
    return {one.name for one in fields(kind)}


def loop_folder(root: Path, alias: str) -> Path:
    """Returns the folder of an alias's improvement, unless another one is named; `root` is that of adapters, else of state."""
    return (root / _LOOPS / quote(alias, safe="@.-_:")).absolute()


def folders_in(root: Path) -> dict[str, Path]:
    """Returns the folders of improvements below a root, by alias."""
    places = sorted(path.parent for path in (root / _LOOPS).glob(f"*/{_STATE}"))
    return {unquote(one.name): one.absolute() for one in places}


def replace_file(path: Path, text: str) -> None:
    """Writes a file whole, or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("w", encoding="utf-8") as file:
        os.fchmod(file.fileno(), 0o600)
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
