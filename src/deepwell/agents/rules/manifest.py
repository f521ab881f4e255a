"""`Manifest`: a rule set as its author wrote it: types of facts, outcomes, tables, a program and cases.

A rule set is a folder with `rules.yaml`, or one YAML file with everything in it. Only files that it names are read, and only
from its folder.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, Final, cast, get_args

from deepwell.agents.rules.facts import LARGEST, ArgumentType, DoesNotFit, FactType, Text, TypeName
from deepwell.agents.rules.logic.wire import Finding
from deepwell.agents.rules.tables.reading import read_table
from deepwell.agents.rules.tables.table import Table
from deepwell.agents.rules.yaml_text import read_yaml
from deepwell.errors import InvalidFile
from deepwell.messages import Language

__all__ = ["MOST_BYTES", "Case", "Manifest", "load_manifest"]

MOST_BYTES: Final = 1 << 20
"""Most bytes of each file of a rule set."""

_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,63}\Z")
_SYMBOL: Final = re.compile(r"[a-z][A-Za-z0-9_]{0,63}\Z")
_FILE: Final = re.compile(r"[^/\\\0]{1,120}\Z")
_MOST_PLACES: Final = 6
_RESERVED: Final = frozenset({"outcome", "conflict", "not"})
_KEYS: Final = frozenset(
    {
        *("name", "version", "title", "description", "facts", "derived", "outcomes", "default"),
        *("logic", "program", "tables", "cases"),
    }
)


@dataclass(frozen=True, slots=True)
class Case:
    """An example of a rule set: facts, and what is expected of the decision.

    Attributes:
        facts: facts as JSON.
        expect: any of `outcome`, `accepted`, `denied` and `derived`; the last three are lists of facts as
            `name(value, ...)`.
    """

    name: str
    facts: tuple[Mapping[str, Any], ...]
    expect: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Manifest:
    """A rule set as it was read.

    Attributes:
        facts: types of the facts that may be proposed.
        derived: types of the facts that the program derives.
        outcomes: texts of the outcomes; an earlier one wins over a later one.
        default: the outcome if no rule names one; empty: there are no outcomes.
        program: the logic program; empty: there is none.
        program_file: its file, for messages.
        findings: what is wrong with the rule set.
    """

    name: str
    version: str
    title: Text
    facts: Mapping[str, FactType]
    derived: Mapping[str, FactType]
    outcomes: Mapping[str, Text]
    default: str
    program: str
    program_file: str
    tables: tuple[Table, ...]
    cases: tuple[Case, ...]
    findings: tuple[Finding, ...]


def load_manifest(path: Path) -> Manifest:
    """Returns the rule set in a folder or file.

    Raises:
        InvalidFile: there is none, it is no YAML, or one of its files cannot be read.
    """
    file = path / "rules.yaml" if path.is_dir() else path
    data = read_yaml(_text(file), file.name)
    if not isinstance(data, dict):
        raise InvalidFile.of("rules_not_yaml", path=file.name, reason="it is no mapping")
    return _Reader(file.parent, file.name).manifest(cast("dict[Any, Any]", data))


def _text(file: Path) -> str:
    try:
        size = file.stat().st_size
        if not file.is_file() or size > MOST_BYTES:
            raise InvalidFile.of("rules_file_large", path=file.name, most=MOST_BYTES >> 10)
        return file.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        raise InvalidFile.of("rules_file_missing", path=file) from None
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidFile.of("rules_file_unreadable", path=file.name, reason=str(error)[:200]) from None


class _Reader:
    """Reads the parts of a manifest, and collects what is wrong."""

    def __init__(self, folder: Path, file: str) -> None:
        self._folder = folder
        self._file = file
        self._findings = list[Finding]()

    def manifest(self, data: dict[Any, Any]) -> Manifest:
        for key in sorted(str(key) for key in data.keys() - _KEYS):
            self._wrong(key, "rules_key_unknown", key=key, known=", ".join(sorted(_KEYS)))
        name, version = str(data.get("name", "")), str(data.get("version", ""))
        if not re.fullmatch(r"[A-Za-z0-9][\w.-]{0,63}", name):
            self._wrong("name", "rules_name_wrong", name=name[:80])
        if not version:
            self._wrong("version", "rules_key_missing", key="version")
        facts = {key: self._fact(key, one) for key, one in self._mapping(data, "facts").items()}
        derived = {key: self._fact(key, one) for key, one in self._mapping(data, "derived").items()}
        outcomes = {key: self._said(one, key) for key, one in self._mapping(data, "outcomes").items()}
        for outcome in outcomes:
            if not _NAME.match(outcome) or outcome == "conflict":
                self._wrong(outcome, "rules_name_wrong", name=outcome[:80])
        default = str(data.get("default", ""))
        if (outcomes or default) and default not in outcomes:
            self._wrong("default", "rules_default_wrong", default=default, known=", ".join(outcomes))
        program, program_file = self._program(data)
        tables = self._tables(data, facts, derived, tuple(outcomes))
        self._names_once(facts, derived, tables)
        return Manifest(
            name=name,
            version=version,
            title=self._said(data.get("title", {}), "title") if "title" in data else {},
            facts=facts,
            derived=derived,
            outcomes=outcomes,
            default=default,
            program=program,
            program_file=program_file,
            tables=tables,
            cases=self._cases(data),
            findings=tuple(self._findings),
        )

    def _wrong(self, where: str, key: str, /, *, level: str = "error", **values: Any) -> None:
        self._findings.append(Finding(level, f"{self._file}, {where}", key, values))

    def _mapping(self, data: Mapping[Any, Any], key: str) -> dict[str, Any]:
        found: Any = data.get(key)
        if found is None:
            return {}
        if not isinstance(found, dict):
            self._wrong(key, "rules_key_type", key=key, type="mapping")
            return {}
        return {str(name): value for name, value in cast("dict[Any, Any]", found).items()}

    def _list(self, data: Mapping[Any, Any], key: str) -> list[Any]:
        found: Any = data.get(key)
        if found is None:
            return []
        if not isinstance(found, list):
            self._wrong(key, "rules_key_type", key=key, type="list")
            return []
        return cast("list[Any]", found)

    def _said(self, given: Any, where: str) -> Text:
        """Returns a text in both languages; one that is missing is a warning."""
        if not isinstance(given, dict):
            self._wrong(where, "rules_key_type", key=where, type="mapping with en and zh")
            return {}
        languages: Sequence[Language] = ("en", "zh")
        found: Text = {one: str(given[one]) for one in languages if given.get(one)}
        if missing := [one for one in languages if one not in found]:
            values = {"label": where, "languages": ", ".join(missing)}
            self._findings.append(Finding("warning", f"{self._file}, {where}", "rules_text_missing", values))
        return found

    def _fact(self, name: str, given: Any) -> FactType:
        if not _NAME.match(name) or name in _RESERVED:
            self._wrong(name, "rules_name_wrong", name=name[:80])
        given = {} if given is None else given
        if not isinstance(given, dict):
            self._wrong(name, "rules_key_type", key=name, type="mapping")
            given = {}
        given = cast("dict[str, Any]", given)
        for key in sorted(
            str(key) for key in given.keys() - {"text", "arguments", "threshold", "neutral", "single"}
        ):
            self._wrong(
                name, "rules_key_unknown", key=key, known="arguments, neutral, single, text, threshold"
            )
        arguments = {
            argument: self._argument(f"{name}.{argument}", one)
            for argument, one in self._mapping(given, "arguments").items()
        }
        threshold = self._score(name, given, "threshold", 0.5)
        neutral = self._score(name, given, "neutral", threshold)
        if neutral < threshold or not 0 < neutral < 1:
            self._wrong(name, "rules_neutral_wrong", neutral=neutral, threshold=threshold)
        single = given.get("single", False)
        if not isinstance(single, bool):
            self._wrong(name, "rules_key_type", key="single", type="true or false")
        text = self._said(given.get("text", {}), name)
        for language, said in text.items():
            for found in re.findall(r"\{(\w+)\}", said):
                if found not in arguments:
                    self._wrong(name, "rules_placeholder", label=name, name=found, language=language)
        return FactType(name, arguments, text, threshold, neutral, single is True)

    def _score(self, name: str, given: Mapping[str, Any], key: str, default: float) -> float:
        value = given.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
            self._wrong(name, "rules_threshold_range", key=key, value=str(value)[:40])
            return default
        return float(value)

    def _argument(self, where: str, given: Any) -> ArgumentType:
        if isinstance(given, str):
            given = {"type": given}
        if not isinstance(given, dict):
            self._wrong(where, "rules_key_type", key=where, type="mapping")
            return ArgumentType("string")
        given = cast("dict[str, Any]", given)
        if unknown := sorted(
            str(key)
            for key in given.keys() - {"type", "minimum", "maximum", "places", "values", "max_length"}
        ):
            self._wrong(
                where, "rules_key_unknown", key=unknown[0], known="maximum, minimum, places, type, values"
            )
        kind: Any = given.get("type")
        if kind not in get_args(TypeName):
            self._wrong(where, "rules_type_unknown", type=str(kind)[:40], known=", ".join(get_args(TypeName)))
            return ArgumentType("string")
        values, labels = self._values(where, given)
        found = ArgumentType(
            kind,
            self._number(where, given, "minimum"),
            self._number(where, given, "maximum"),
            self._whole(where, given, "places", 2 if kind == "decimal" else 0, _MOST_PLACES),
            values,
            self._whole(where, given, "max_length", 200, 4000),
            labels,
        )
        self._check_argument(where, found)
        return found

    def _values(self, where: str, given: Mapping[str, Any]) -> tuple[tuple[str, ...], dict[str, Text]]:
        """Returns the values of an argument, a list or a mapping to what they are called in both languages."""
        if isinstance(given.get("values"), dict):
            labels = self._mapping(given, "values")
            return tuple(labels), {name: self._said(one, f"{where}.{name}") for name, one in labels.items()}
        return tuple(str(one) for one in self._list(given, "values")), {}

    def _check_argument(self, where: str, kind: ArgumentType) -> None:
        if kind.type == "symbol":
            for value in kind.values:
                if not _SYMBOL.match(value):
                    self._wrong(where, "rules_symbol_wrong", value=value[:80])
        elif kind.values and kind.type != "string":
            self._wrong(where, "rules_key_unknown", key="values", known="minimum, maximum")
        for value in kind.values if kind.type == "string" else ():
            try:
                ArgumentType("string", max_length=kind.max_length).checked(value)
            except DoesNotFit as error:
                self._findings.append(
                    Finding("error", f"{self._file}, {where}", error.note.key, {**error.note.values})
                )
        low, high = kind.limits() or (0, 0)
        if low > high or low < -LARGEST or high > LARGEST:
            self._wrong(where, "rules_limits_wrong", low=low, high=high, most=LARGEST)

    def _number(self, where: str, given: Mapping[str, Any], key: str) -> Decimal | None:
        value = given.get(key)
        if value is None:
            return None
        try:
            if (
                isinstance(value, int | float)
                and not isinstance(value, bool)
                and Decimal(str(value)).is_finite()
            ):
                return Decimal(str(value))
        except InvalidOperation:
            pass
        self._wrong(where, "rules_key_type", key=key, type="number")
        return None

    def _whole(self, where: str, given: Mapping[str, Any], key: str, default: int, most: int) -> int:
        value = given.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
            self._wrong(where, "rules_key_type", key=key, type=f"number from 0 to {most}")
            return default
        return value

    def _program(self, data: Mapping[Any, Any]) -> tuple[str, str]:
        if "program" in data and "logic" in data:
            self._wrong("logic", "rules_program_twice")
        if "program" in data:
            return str(data["program"]), "program"
        if "logic" in data:
            name = str(data["logic"])
            return self._file_text(name, ".lp"), name
        return "", ""

    def _file_text(self, name: str, *endings: str) -> str:
        """Returns the text of a file in the folder; a name that leads elsewhere is refused."""
        if not _FILE.match(name) or name.startswith(".") or not name.endswith(endings):
            self._wrong(name[:80], "rules_file_name", name=name[:80], endings=", ".join(endings))
            return ""
        file = self._folder / name
        if file.is_symlink():
            self._wrong(name, "rules_file_name", name=name, endings=", ".join(endings))
            return ""
        return _text(file)

    def _tables(
        self,
        data: Mapping[Any, Any],
        facts: Mapping[str, FactType],
        derived: Mapping[str, FactType],
        outcomes: tuple[str, ...],
    ) -> tuple[Table, ...]:
        tables = list[Table]()
        for number, given in enumerate(self._list(data, "tables")):
            if not isinstance(given, dict) or not _NAME.match(str(given.get("name", ""))):
                self._wrong(f"table {number + 1}", "rules_name_wrong", name=str(given)[:80])
                continue
            given = {str(key): value for key, value in cast("dict[Any, Any]", given).items()}
            name = str(given["name"])
            inner: dict[Any, Any] = self._mapping(given, "outputs")
            outputs = {key: self._argument(f"{name}.{key}", one) for key, one in inner.items()}
            file = str(given["file"]) if "file" in given else ""
            text = self._file_text(file, ".csv", ".json") if file else ""
            table, findings = read_table(given, text, outputs, facts, (derived, tables, outcomes))
            tables.append(table)
            self._findings += findings
        return tuple(tables)

    def _names_once(
        self, facts: Mapping[str, Any], derived: Mapping[str, Any], tables: Sequence[Table]
    ) -> None:
        seen = set[str]()
        for name in (*facts, *derived, *(table.name for table in tables)):
            if name in seen:
                self._wrong(name, "rules_name_twice", name=name)
            seen.add(name)

    def _cases(self, data: Mapping[Any, Any]) -> tuple[Case, ...]:
        given: Any = data.get("cases")
        if isinstance(given, str):
            text = self._file_text(given, ".yaml", ".json")
            try:
                given = json.loads(text) if given.endswith(".json") else read_yaml(text, given)
            except ValueError as error:
                self._wrong("cases", "rules_key_type", key="cases", type=f"list ({error})")
        found = list[Case]()
        for number, one in enumerate(self._list({"cases": given}, "cases")):
            facts: Any = one.get("facts") if isinstance(one, dict) else None
            if not isinstance(facts, list) or not all(isinstance(fact, dict) for fact in facts):
                self._wrong(f"case {number + 1}", "rules_key_type", key="facts", type="list of facts")
                continue
            expect: Any = one.get("expect") or {}
            if not isinstance(expect, dict):
                self._wrong(f"case {number + 1}", "rules_key_type", key="expect", type="mapping")
                continue
            found.append(Case(str(one.get("name", number + 1)), tuple(facts), expect))
        return tuple(found)
