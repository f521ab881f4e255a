"""`read_pack`: a prompt with its purpose, version and licence from a TOML file. Nothing in a file is executed."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast, get_args

from deepwell.dialogue.prompts.content import (
    INDUSTRIES,
    Industry,
    PromptContent,
    PromptExample,
    PromptLanguage,
)
from deepwell.dialogue.prompts.text import (
    ID_PATTERN,
    MAX_VERSION,
    NAME_PATTERN,
    PromptMessage,
    PromptText,
    Role,
)
from deepwell.errors import DeepwellError, InvalidFile

__all__ = ["MAX_FILE", "PromptPack", "read_pack", "read_packs"]

MAX_FILE: Final = 262_144
"""Bytes of the largest file that is read."""

MAX_FILES: Final = 200  # of a folder
_MAX_LINE: Final = 500  # characters of a purpose or a description
_KEYS: Final = (
    "id",
    "version",
    "language",
    "industry",
    "purpose",
    "license",
    "text",
    "messages",
    "variables",
    "example",
)
_NEEDED: Final = ("id", "version", "language", "industry", "purpose", "license")


@dataclass(frozen=True, slots=True)
class PromptPack:
    """A prompt as a file brings it.

    Attributes:
        id: id of the prompt that it becomes.
        version: number of the version; a changed text needs a higher one.
        content: all that it says; nothing is left out in a pack but the example.
    """

    id: str
    version: int
    content: PromptContent


def read_packs(folder: Path) -> list[PromptPack]:
    """Returns the packs of a folder: its files that end with `.toml`, in the order of their names; or that of one file.

    Raises:
        InvalidFile: there are none or too many, a file is no pack, or two have the same id.
    """
    if not folder.exists():
        raise InvalidFile.of("pack_none", path=folder)
    if not folder.is_dir():
        return [read_pack(folder)]
    files = sorted(one for one in folder.iterdir() if one.suffix == ".toml")
    if not files:
        raise InvalidFile.of("pack_none", path=folder)
    if len(files) > MAX_FILES:
        raise InvalidFile(
            f"{folder} has {len(files)} files, more than {MAX_FILES}", fix="load parts of it, a folder each"
        )
    packs: dict[str, PromptPack] = {}
    for file in files:
        pack = read_pack(file)
        if pack.id in packs:
            raise _bad(
                file, f"another file of {folder.name} has the id {pack.id!r}", "give each an id of its own"
            )
        packs[pack.id] = pack
    return list(packs.values())


def read_pack(file: Path) -> PromptPack:
    """Returns the pack of a file.

    Raises:
        InvalidFile: it is no pack; the message names the file and the key, the fix what belongs there.
    """
    data = _load(file)
    if unknown := [key for key in data if key not in _KEYS]:
        raise _bad(file, f"unknown keys: {', '.join(unknown)}"[:300], f"the keys are {', '.join(_KEYS)}")
    if missing := [key for key in _NEEDED if key not in data]:
        raise _bad(file, f"these keys are missing: {', '.join(missing)}", "add them")
    version = data["version"]
    if isinstance(version, bool) or not isinstance(version, int) or not 0 < version <= MAX_VERSION:
        raise _bad(file, f"version is no whole number from 1 to {MAX_VERSION}", "write version = 1")
    id = _line(file, data, "id")
    if not re.fullmatch(ID_PATTERN, id):
        raise _bad(
            file, f"the id {id[:60]!r} cannot be used", "use letters, digits, '-', '_' and '.', 63 at most"
        )
    language = _choice(file, data, "language", get_args(PromptLanguage))
    text = PromptText(_text(file, data, "text", ""), _messages(file, data), _variables(file, data))
    try:
        text.check()
        example = _example(file, data)
        if example is not None:
            text.filled(example.variables)
    except InvalidFile:
        raise
    except DeepwellError as error:
        raise _bad(file, error.message, error.fix) from None
    return PromptPack(
        id,
        version,
        PromptContent(
            text,
            _line(file, data, "purpose"),
            cast("PromptLanguage", language),
            cast("Industry", _choice(file, data, "industry", INDUSTRIES)),
            _line(file, data, "license"),
            example,
        ),
    )


def _load(file: Path) -> dict[str, Any]:
    with file.open("rb") as stream:
        raw = stream.read(MAX_FILE + 1)
    if len(raw) > MAX_FILE:
        raise _bad(file, f"it has more than {MAX_FILE} bytes", "shorten it")
    try:
        return tomllib.loads(raw.decode("utf-8"))
    except UnicodeDecodeError:
        raise _bad(file, "it is no UTF-8 text", "save it as UTF-8") from None
    except (tomllib.TOMLDecodeError, RecursionError, ValueError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise _bad(file, reason, "compare it with a file of examples/prompts") from None


def _messages(file: Path, data: Mapping[str, Any]) -> tuple[PromptMessage, ...]:
    given: Any = data.get("messages", [])
    if not isinstance(given, list):
        raise _bad(file, "messages is no list", "write each as [[messages]] with role and content")
    found: list[PromptMessage] = []
    for one in cast("list[Any]", given):
        if not isinstance(one, dict) or set(cast("dict[str, Any]", one)) != {"role", "content"}:
            raise _bad(file, "a message has other keys than role and content", "write role and content")
        message = cast("dict[str, Any]", one)
        role = _choice(file, message, "role", get_args(Role))
        found.append(PromptMessage(cast("Role", role), _text(file, message, "content")))
    return tuple(found)


def _variables(file: Path, data: Mapping[str, Any]) -> dict[str, str]:
    given: Any = data.get("variables", {})
    if not isinstance(given, dict):
        raise _bad(file, "variables is no table", 'write [variables] and under it name = "what it is for"')
    table = cast("dict[str, Any]", given)
    for name in table:
        if not re.fullmatch(NAME_PATTERN, name):
            raise _bad(file, f"{name[:60]!r} is no name of a variable", "use letters, digits and '_'")
    return {name: _line(file, table, name) for name in table}


def _example(file: Path, data: Mapping[str, Any]) -> PromptExample | None:
    given: Any = data.get("example")
    if given is None:
        return None
    if not isinstance(given, dict) or not {"input", "answer"} <= set(cast("dict[str, Any]", given)):
        raise _bad(file, "the example has no input or no answer", "write [example] with input and answer")
    table = cast("dict[str, Any]", given)
    if unknown := set(table) - {"input", "answer", "variables"}:
        raise _bad(file, f"the example has unknown keys: {', '.join(sorted(unknown))}"[:300], "remove them")
    values: Any = table.get("variables", {})
    if not isinstance(values, dict):
        raise _bad(file, "the example's variables are no table", "write them under [example.variables]")
    texts = cast("dict[str, Any]", values)
    filled = {name: _text(file, texts, name) for name in texts}
    return PromptExample(_text(file, table, "input"), _text(file, table, "answer"), filled)


def _text(file: Path, data: Mapping[str, Any], key: str, default: str | None = None) -> str:
    value: Any = data.get(key, default)
    if not isinstance(value, str):
        raise _bad(file, f"{key[:60]} is no text", f'write {key[:60]} = "..."')
    return value


def _line(file: Path, data: Mapping[str, Any], key: str) -> str:
    value = _text(file, data, key).strip()
    if not value or len(value) > _MAX_LINE or not value.isprintable():
        raise _bad(
            file, f"{key[:60]} is empty, longer than {_MAX_LINE} characters or not one line", "write one line"
        )
    return value


def _choice(file: Path, data: Mapping[str, Any], key: str, choices: tuple[str, ...]) -> str:
    value = _text(file, data, key)
    if value not in choices:
        raise _bad(file, f"{key} is {value[:60]!r}", f"write one of {', '.join(choices)}")
    return value


def _bad(file: Path, reason: str, fix: str) -> InvalidFile:
    return InvalidFile.of("pack_unusable", path=file, reason=reason, repair=fix)
