"""Errors for settings that cannot be used: each names the setting, the value's source and the nearest right spelling."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from deepwell.messages import nearest
from deepwell.settings.sources import ENV_PREFIX, InvalidSettings

__all__ = ["invalid", "refuse_misspelt_variables"]

_NEAR = 0.8  # of an environment variable: others may share the prefix, as those that Kubernetes sets for a service
_PLACES = ("HOME", "CONFIG")  # variables that are no settings: they say where things lie
_OTHERS = ("BENCH_", "SMOLLM2", "MINILM", "CLIENTS_PYTHON")  # of the benchmarks and the tests
_NUMBERS = ("int_parsing", "float_parsing", "int_type", "float_type", "int_from_float")
_RANGES = ("greater_than", "greater_than_equal", "less_than", "less_than_equal")


def refuse_misspelt_variables(fields: Mapping[str, FieldInfo]) -> None:
    """Refuses an environment variable that is spelt almost like a setting: it would be ignored.

    Raises:
        InvalidSettings: there is one.
    """
    known = {name.upper() for name in fields} | set(_PLACES)
    for name in sorted(os.environ):
        rest = name.removeprefix(ENV_PREFIX)
        if rest == name or rest.upper() in known or rest.startswith(_OTHERS):
            continue
        if right := nearest(rest, known, _NEAR):
            raise InvalidSettings.of("variable_near", name=name, right=f"{ENV_PREFIX}{right}")


def invalid(
    problems: list[Any], model: type[BaseModel], origin: Callable[[str], str], file: Path
) -> InvalidSettings:
    """Returns the error for what pydantic found.

    Args:
        problems: pydantic's list of errors.
        origin: returns the source of a setting's value.
        file: the configuration file.
    """
    # Values are not repeated because one of them may be a key.
    found = [_problem(problem, model.model_fields, origin, file) for problem in problems]
    return found[0] if len(found) == 1 else InvalidSettings.joined(found)


def _problem(
    problem: Any, fields: Mapping[str, FieldInfo], origin: Callable[[str], str], file: Path
) -> InvalidSettings:
    name = str(problem["loc"][0]) if problem["loc"] else "settings"
    kind = problem["type"]
    if kind == "extra_forbidden":
        if right := nearest(name, fields):
            return InvalidSettings.of("setting_near", name=name, file=file, right=right)
        return InvalidSettings.of("setting_unknown", name=name, file=file)
    where = {"name": name, "origin": origin(name)}
    if kind == "literal_error":
        return InvalidSettings.of("setting_choice", choices=", ".join(_choices(fields[name])), **where)
    if kind in _NUMBERS or kind in _RANGES:
        low, high = _limits(fields[name])
        if low is not None and high is not None:
            example = fields[name].default
            return InvalidSettings.of("setting_between", low=low, high=high, example=example, **where)
        if low is not None:
            return InvalidSettings.of("setting_least", low=low, **where)
    return InvalidSettings.of("setting_wrong", reason=problem["msg"].removeprefix("Value error, "), **where)


def _choices(field: FieldInfo) -> list[str]:
    return [str(choice) for choice in get_args(field.annotation)]


def _limits(field: FieldInfo) -> tuple[Any, Any]:
    """Returns the least and the largest number that a field takes; None where it has no limit."""
    found: dict[str, Any] = {}
    for limit in field.metadata:
        for name in ("ge", "gt", "le", "lt"):
            if (value := getattr(limit, name, None)) is not None:
                found[name[0]] = value
    return found.get("g"), found.get("l")
