"""`FrozenSets`: questions, texts and requests on which a candidate is compared with the current model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from deepwell.errors import InvalidRequest

__all__ = ["SHIPPED", "Choice", "FrozenSets", "read_sets"]

SHIPPED: Final = Path(__file__).parent / "frozen"
_MOST: Final = 2000
_FILES: Final = {
    "choices": "choices.jsonl",
    "texts": "texts.txt",
    "harmful": "harmful.txt",
    "harmless": "harmless.txt",
}


@dataclass(frozen=True, slots=True)
class Choice:
    """A question with its choices, and the place of the right one."""

    question: str
    choices: tuple[str, ...]
    answer: int


@dataclass(frozen=True, slots=True)
class FrozenSets:
    """Material that a candidate is measured on besides votes.

    Attributes:
        choices: questions with one right answer.
        texts: texts whose likelihood is measured.
        harmful: requests whose answers should be harmless.
        harmless: requests that should not be refused.
        hashes: SHA-256 of each file, by the name of its set.
    """

    choices: tuple[Choice, ...] = ()
    texts: tuple[str, ...] = ()
    harmful: tuple[str, ...] = ()
    harmless: tuple[str, ...] = ()
    hashes: Mapping[str, str] = field(default_factory=dict[str, str])


def read_sets(folder: Path = SHIPPED) -> FrozenSets:
    """Reads the sets of a folder. A file that is not there leaves its set empty, so the gate that needs it is not measured.

    Args:
        folder: it has `choices.jsonl` (`question`, `choices`, `answer`: the place of the right one, from 0), `texts.txt` (texts
            with empty lines between), `harmful.txt` and `harmless.txt` (a request in a line).

    Raises:
        InvalidRequest: the folder is none, or a file cannot be used.
    """
    if not folder.is_dir():
        raise InvalidRequest.of("improve_sets", place=str(folder), reason="no folder", reason_zh="不是目录")
    found: dict[str, str] = {}
    hashes: dict[str, str] = {}
    for name, file in _FILES.items():
        path = folder / file
        if path.is_file():
            data = path.read_bytes()
            try:
                found[name] = data.decode("utf-8-sig")
            except UnicodeDecodeError:
                raise InvalidRequest.of(
                    "improve_sets", place=str(path), reason="no UTF-8", reason_zh="不是 UTF-8"
                ) from None
            hashes[name] = sha256(data).hexdigest()
    choices = tuple(
        _choice(folder / _FILES["choices"], number, line)
        for number, line in enumerate(found.get("choices", "").splitlines(), 1)
        if line.strip()
    )
    texts = tuple(one.strip() for one in found.get("texts", "").split("\n\n") if one.strip())
    lines = {
        name: tuple(one.strip() for one in found.get(name, "").splitlines() if one.strip())
        for name in ("harmful", "harmless")
    }
    for name, many in (("choices", choices), ("texts", texts), *lines.items()):
        if len(many) > _MOST:
            told = {
                "reason": f"{len(many)} entries, {_MOST} is the most",
                "reason_zh": f"共 {len(many)} 条，最多 {_MOST} 条",
            }
            raise InvalidRequest.of("improve_sets", place=str(folder / _FILES[name]), **told)
    return FrozenSets(choices, texts, lines["harmful"], lines["harmless"], hashes)


def _choice(path: Path, number: int, line: str) -> Choice:
    try:
        told: Any = json.loads(line)
        question, choices, answer = told["question"], told["choices"], told["answer"]
        whole = isinstance(question, str) and all(isinstance(one, str) and one for one in choices)
        if not whole or type(answer) is not int or not 0 <= answer < len(choices) or len(choices) < 2:
            raise ValueError
        return Choice(question, tuple(choices), answer)
    except (ValueError, KeyError, TypeError, RecursionError):
        raise InvalidRequest.of(
            "improve_sets",
            place=f"{path}, line {number}",
            reason="no question with choices and the place of the right one",
            reason_zh="不是带选项和正确选项序号的题目",
        ) from None
