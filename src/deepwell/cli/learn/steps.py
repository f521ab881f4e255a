"""The steps of the learning path and their texts, and what a learner has passed."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Final, cast

from deepwell.cli.learn.checks.desk import Finding
from deepwell.errors import InvalidRequest
from deepwell.messages import Language

__all__ = ["Passed", "Step", "page_of", "said", "step_of", "steps"]

RECORD_FILE: Final = "learn.json"


@dataclass(frozen=True, slots=True)
class Step:
    """One step. `needs` are the numbers of the steps before it."""

    number: int
    slug: str
    title: str
    title_zh: str
    minutes: int
    needs: tuple[int, ...]

    def called(self, language: Language) -> str:
        """Returns its title in a language."""
        return self.title_zh if language == "zh" else self.title

    def page(self, language: Language) -> str:
        """Returns the path of its page in the documentation."""
        return f"docs/learn/{self.number:02d}-{self.slug}{'.zh-CN' if language == 'zh' else ''}.md"


@cache
def _file() -> Mapping[str, Any]:
    return tomllib.loads(files("deepwell.cli.learn").joinpath("steps.toml").read_text(encoding="utf-8"))


@cache
def steps() -> tuple[Step, ...]:
    """Returns all steps in order."""
    return tuple(Step(**{**one, "needs": tuple(one["needs"])}) for one in _file()["steps"])


def step_of(number: int) -> Step:
    """Returns a step by its number.

    Raises:
        InvalidRequest: there is none.
    """
    found = next((one for one in steps() if one.number == number), None)
    if found is None:
        raise InvalidRequest.of("learn_step_unknown", number=number, last=len(steps()))
    return found


def page_of(step: Step, language: Language) -> str:
    """Returns the text of a step's page."""
    packed = json.loads(files("deepwell.cli.learn").joinpath("pages.json").read_text(encoding="utf-8"))
    return str(packed[language][f"{step.number:02d}"])


def said(finding: Finding, language: Language) -> tuple[str, str]:
    """Returns what a finding says in a language, and how to fix what is missing; empty if nothing is."""
    texts = cast("Mapping[str, str]", _file()["findings"][finding.key])
    tail = "_zh" if language == "zh" else ""
    message = texts[("good" if finding.ok else "bad") + tail].format_map(finding.values)
    return message, "" if finding.ok else texts["fix" + tail].format_map(finding.values)


class Passed:
    """The steps that a learner has passed, with the times, in a file of this machine."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / RECORD_FILE

    def times(self) -> dict[int, str]:
        """Returns the time of the first passed check of each step. A damaged file counts as none."""
        try:
            read = json.loads(self._path.read_text(encoding="utf-8"))
            return {int(number): str(time) for number, time in dict(read).items()}
        except (OSError, ValueError, TypeError, RecursionError):
            return {}

    def add(self, number: int, time: str) -> None:
        """Notes that a step was passed, unless it was before."""
        known = self.times()
        known.setdefault(number, time)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        part = self._path.with_name(f"{RECORD_FILE}.part")
        part.write_text(json.dumps({str(key): known[key] for key in sorted(known)}), encoding="utf-8")
        part.replace(self._path)
