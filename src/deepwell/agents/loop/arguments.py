"""Arguments of a call, checked against the JSON schema of its tool.

Schemas may come from a client, and arguments from a model: patterns run in linear time (RE2), nothing is fetched that a `$ref`
names, and the work of one check is counted (`metered`).
"""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Collection, Iterator, Mapping
from functools import cache
from typing import Any

from deepwell.agents.loop.clean import canonical, read_json
from deepwell.agents.loop.metered import TooMuchToCheck, begin_check, metered
from deepwell.errors import InvalidRequest, MissingDependency

__all__ = [
    "InvalidArguments",
    "check_schema",
    "nearest",
    "outline",
    "parse_arguments",
    "require_validator",
    "without_unknown",
]

_MOST_PROBLEMS = 4
_MOST_SHOWN = 120
_MOST_SCHEMA = 64 << 10  # characters of a schema as JSON


class InvalidArguments(ValueError):
    """Raised for arguments that do not fit, with what a model needs to mend them."""


def require_validator() -> None:
    """Checks that the validator of JSON schemas is installed.

    Raises:
        MissingDependency: the extra `[agents]` is missing.
    """
    try:
        import jsonschema  # noqa: F401
    except ImportError:
        raise MissingDependency.of("agents_missing") from None


def check_schema(name: str, schema: Mapping[str, Any], *, param: str | None = None) -> None:
    """Checks the schema of a tool's arguments before the tool is offered.

    Raises:
        InvalidRequest: it is no JSON schema of an object, or a large one.
        MissingDependency: the extra `[agents]` is missing.
    """
    require_validator()
    from jsonschema import Draft202012Validator, SchemaError

    try:
        if len(canonical(schema)) > _MOST_SCHEMA:
            raise InvalidRequest(
                f"the parameters of the tool {name!r} have more than {_MOST_SCHEMA:,} characters",
                fix="describe fewer properties, or make several tools of one",
                param=param,
            )
        Draft202012Validator.check_schema(dict(schema))
        fault = "" if schema.get("type", "object") == "object" else "its type is not object"
    except SchemaError as error:
        fault = error.message[:_MOST_SHOWN]
    except RecursionError:
        fault = "it is nested too deeply"
    if fault:
        raise InvalidRequest(
            f"the parameters of the tool {name!r} are no JSON schema of an object: {fault}",
            fix="give an object with type, properties and required",
            param=param,
        )


def parse_arguments(text: str, schema: Mapping[str, Any], *, explain: bool) -> dict[str, Any]:
    """Returns the arguments that a model wrote, if they fit the schema.

    Args:
        explain: whether the error says each problem and what the tool takes, or only that something is wrong.

    Raises:
        InvalidArguments: they do not fit.
    """
    try:
        value = read_json(text.strip() or "{}")
    except ValueError as error:
        raise InvalidArguments(_said([f"they are not JSON ({error})"], schema, explain)) from None
    if not isinstance(value, dict):
        raise InvalidArguments(_said(["they are not a JSON object"], schema, explain))
    if problems := list(_problems(value, schema)):
        raise InvalidArguments(_said(problems, schema, explain))
    return value


def without_unknown(text: str, schema: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]] | None:
    """Returns the arguments that a schema knows, and the names of the others, if those are all that does not fit."""
    properties = schema.get("properties")
    try:
        value = read_json(text.strip() or "{}")
    except ValueError:
        return None
    if not isinstance(value, dict) or not isinstance(properties, Mapping):
        return None
    known = {name: one for name, one in value.items() if name in properties}
    unknown = [name for name in value if name not in properties]
    return None if list(_problems(known, schema)) or not unknown else (known, unknown)


def outline(schema: Mapping[str, Any]) -> str:
    """Returns the arguments that a schema takes on one line, `?` behind those that may be left out."""
    properties = schema.get("properties")
    if not isinstance(properties, Mapping) or not properties:
        return "{}"
    required = schema.get("required", ())
    shown = [f'"{name}"{"" if name in required else "?"}: {_kind(one)}' for name, one in properties.items()]
    return "{" + ", ".join(shown) + "}"


def nearest(name: str, known: Collection[str]) -> str | None:
    """Returns the known name that a wrong one most likely means."""
    folded = {one.casefold().replace("-", "_"): one for one in known}
    found = difflib.get_close_matches(name[:64].casefold().replace("-", "_"), folded, n=1, cutoff=0.6)
    return folded[found[0]] if found else None


def _said(problems: list[str], schema: Mapping[str, Any], explain: bool) -> str:
    if not explain:
        return "invalid arguments"
    return f"the arguments do not fit: {'; '.join(problems)}. Expected: {outline(schema)}"


def _kind(schema: Any) -> str:
    if not isinstance(schema, Mapping):
        return "any"
    if isinstance(values := schema.get("enum"), list):
        return " | ".join(canonical(one) for one in values)[:_MOST_SHOWN]
    kind = schema.get("type", "any")
    return " | ".join(map(str, kind)) if isinstance(kind, list) else str(kind)


def _problems(value: dict[str, Any], schema: Mapping[str, Any]) -> Iterator[str]:
    try:
        validator = _validator({"type": "object", **schema})
        begin_check()
        for error in itertools.islice(validator.iter_errors(value), _MOST_PROBLEMS):
            yield _problem(error)
    except TooMuchToCheck:
        yield "they take too long to check: send less at once"
    except RecursionError:
        yield "the schema refers to itself without an end"
    except ArithmeticError:
        yield "a number is too large to be checked"
    except Exception as error:
        if type(error).__name__ not in ("_WrappedReferencingError", "Unresolvable", "PointerToNowhere"):
            raise
        yield "the schema of this tool refers to something that is not there"


def _problem(error: Any) -> str:
    where = ".".join(str(part) for part in error.absolute_path) or "the object"
    wanted, given = error.validator_value, error.instance
    match error.validator:
        case "required":
            missing = [name for name in wanted if name not in given]
            return f"missing {', '.join(repr(name) for name in missing)}"
        case "additionalProperties" if isinstance(given, dict):
            known = error.schema.get("properties", {})
            extra = [name for name in given if name not in known]
            hints = [
                f"{name!r}{f' (did you mean {near!r}?)' if (near := nearest(name, known)) else ''}"
                for name in extra
            ]
            return f"unknown {', '.join(hints)[:_MOST_SHOWN]}"
        case "type":
            kind = " or ".join(wanted) if isinstance(wanted, list) else wanted
            return f"{where} must be {kind}, not {canonical(given)[:_MOST_SHOWN]}"
        case "enum":
            return f"{where} must be one of {canonical(wanted)[:_MOST_SHOWN]}, not {canonical(given)[:_MOST_SHOWN]}"
        case _:
            return f"{where}: {error.message[:_MOST_SHOWN]}"


def _validator(schema: Mapping[str, Any]) -> Any:
    """Returns the validator of a schema, which follows no reference out of it."""
    from referencing import Registry

    return _validators()(schema, registry=Registry())


@cache
def _validators() -> Any:
    from jsonschema import Draft202012Validator

    checks = Draft202012Validator.VALIDATORS
    return metered(
        Draft202012Validator,
        {
            "pattern": _pattern,
            "patternProperties": _pattern_properties,
            "additionalProperties": _additional_properties(checks["additionalProperties"]),
            "uniqueItems": _unique_items,
            # They follow references and run patterns by ways of their own. The grammar knows neither.
            "unevaluatedProperties": _unchecked,
            "unevaluatedItems": _unchecked,
        },
    )


def _searches(pattern: str, text: str) -> bool:
    """Returns whether a pattern is found in a text; True for one that RE2 does not know, which then holds nothing back."""
    import re2

    options = re2.Options()
    options.log_errors = False
    try:
        return re2.compile(pattern, options=options).search(text) is not None
    except re2.error:
        return True


def _pattern(_validator: Any, pattern: str, instance: Any, _schema: Any) -> Iterator[Any]:
    from jsonschema import ValidationError

    if isinstance(instance, str) and not _searches(pattern, instance):
        yield ValidationError(f"{canonical(instance)[:60]} does not match {pattern[:60]!r}")


def _pattern_properties(validator: Any, patterns: Any, instance: Any, _schema: Any) -> Iterator[Any]:
    if not isinstance(instance, dict):
        return
    for pattern, below in patterns.items():
        for name, value in instance.items():
            if _searches(pattern, name):
                yield from validator.descend(value, below, path=name, schema_path=pattern)


def _additional_properties(plain: Any) -> Any:
    """Returns the check of `additionalProperties` that sees no property which a pattern knows."""

    def check(validator: Any, below: Any, instance: Any, schema: Any) -> Iterator[Any]:
        patterns = schema.get("patternProperties")
        if isinstance(instance, dict) and patterns:
            instance = {
                name: value
                for name, value in instance.items()
                if not any(_searches(pattern, name) for pattern in patterns)
            }
            schema = {name: value for name, value in schema.items() if name != "patternProperties"}
        yield from plain(validator, below, instance, schema)

    return check


def _unique_items(_validator: Any, wanted: Any, instance: Any, _schema: Any) -> Iterator[Any]:
    from jsonschema import ValidationError

    if wanted and isinstance(instance, list) and len(set(map(canonical, instance))) < len(instance):
        yield ValidationError("it has an element twice")


def _unchecked(_validator: Any, _wanted: Any, _instance: Any, _schema: Any) -> Iterator[Any]:
    return iter(())
