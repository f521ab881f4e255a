"""Comparison of two OpenAPI documents: equal but for order, and for the places of the modules in component names."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

__all__ = ["compare_documents"]

_COMPONENTS = "#/components/schemas/"
_SETS = frozenset({"enum", "required", "anyOf", "oneOf"})  # lists in which order says nothing


def compare_documents(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Compares two documents; a line for each operation, component and other part that differs.

    A component is known by what it holds, the components it refers to included: the name that FastAPI gives one of two equally
    named models has the path of a module in it.
    """
    labels = _labels({"before": _schemas(before), "after": _schemas(after)})
    parts = {
        side: _parts(described, {name: labels[side, name] for name in _schemas(described)})
        for side, described in (("before", before), ("after", after))
    }
    old, new = parts["before"], parts["after"]
    found = [
        f"{part}: {'gone' if part not in new else 'new' if part not in old else 'different'}"
        for part in sorted(old.keys() | new.keys())
        if old.get(part) != new.get(part)
    ]
    kept = {side: Counter(label for (where, _), label in labels.items() if where == side) for side in parts}
    for side, other, verdict in (
        ("before", "after", "gone, or different"),
        ("after", "before", "new, or different"),
    ):
        beyond = kept[side] - kept[other]
        found += [
            f"component {name}: {verdict}"
            for (where, name), label in sorted(labels.items())
            if where == side and beyond[label]
        ]
    return found


def _schemas(described: Mapping[str, Any]) -> Mapping[str, Any]:
    return described.get("components", {}).get("schemas", {})


def _short(name: str) -> str:
    """Returns a component's name without the path of a module."""
    return name.rpartition("__")[2]


def _labels(sides: Mapping[str, Mapping[str, Any]]) -> dict[tuple[str, str], str]:
    """Returns a digest for every component, equal where name and content are, through all references and their cycles.

    Each round takes the digests of the round before for the references, until no round tells more components apart.
    """
    schemas = {(side, name): schema for side, found in sides.items() for name, schema in found.items()}
    labels = {place: _short(place[1]) for place in schemas}
    while True:
        by_side = {side: {name: labels[side, name] for name in found} for side, found in sides.items()}
        told_apart = len(set(labels.values()))
        labels = {
            (side, name): _digest([_short(name), _canonical(schema, by_side[side])])
            for (side, name), schema in schemas.items()
        }
        if len(set(labels.values())) == told_apart:
            return labels


def _digest(value: Any) -> str:
    return sha256(_text(value).encode()).hexdigest()


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


def _canonical(value: Any, labels: Mapping[str, str]) -> Any:
    """Returns the value with digests for references, and a fixed order where order says nothing."""
    match value:
        case dict():
            return {
                key: sorted((_canonical(one, labels) for one in inner), key=_text)
                if key in _SETS and isinstance(inner, list)
                else _canonical(inner, labels)
                for key, inner in value.items()
            }
        case list():
            return [_canonical(one, labels) for one in value]
        case str() if value.startswith(_COMPONENTS):
            name = value.removeprefix(_COMPONENTS)
            return _COMPONENTS + labels.get(name, name)
        case _:
            return value


def _parts(described: Mapping[str, Any], labels: Mapping[str, str]) -> dict[str, str]:
    """Returns the document by operation and by other part, without the schemas, as canonical text."""
    parts: dict[str, str] = {}
    for key, value in described.items():
        if key == "paths":
            for path, methods in value.items():
                for method, operation in methods.items():
                    parts[f"{method.upper()} {path}"] = _text(_canonical(operation, labels))
        elif key == "components":
            for kind, inner in value.items():
                if kind != "schemas":
                    parts[f"components {kind}"] = _text(_canonical(inner, labels))
        else:
            parts[key] = _text(_canonical(value, labels))
    return parts
