"""JSON schemas of the facts that a rule set knows: as a response format, they let a model propose no others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from deepwell.agents.rules.facts import Fact, FactType, Value
from deepwell.errors import InvalidRequest

__all__ = ["MOST_FACTS", "SOURCE_LENGTH", "facts_from_json", "facts_schema"]

MOST_FACTS: Final = 64
"""Most facts of an answer, unless the caller says otherwise: an unbounded list may never end."""

SOURCE_LENGTH: Final = 200
"""Most characters of a source that a model writes."""


def facts_schema(
    types: Mapping[str, FactType], *, most: int = MOST_FACTS, extra: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Returns the schema of `{"facts": [{"name": ..., "arguments": {...}}, ...]}` for facts of some types.

    Args:
        most: most facts of the list.
        extra: further fields that each fact has: "score" (0 to 1, two places) and "source".
    """
    more = dict[str, Any]()
    if "source" in extra:
        more["source"] = {"type": "string", "minLength": 1, "maxLength": SOURCE_LENGTH}
    if "score" in extra:
        more["score"] = {"type": "number", "minimum": 0, "maximum": 1, "multipleOf": 0.01}
    kinds = [
        _object({"name": {"const": one.name}, "arguments": _arguments(one), **more}) for one in types.values()
    ]
    facts = {"type": "array", "maxItems": most, "items": {"anyOf": kinds}}
    return _object({"facts": facts})


def facts_from_json(data: Any, *, score: float = 1.0, source: str = "") -> list[Fact]:
    """Returns the facts of JSON: a list of them, or an object with a list `facts`. Their types are not checked.

    Args:
        score: the score of facts that have none.
        source: the source of facts that have none.

    Raises:
        InvalidRequest: the JSON is of another shape.
    """
    facts = data.get("facts") if isinstance(data, dict) else data
    if not isinstance(facts, list):
        raise InvalidRequest.of("rules_facts_shape", where="facts")
    return [_fact(one, number + 1, score, source) for number, one in enumerate(facts)]


def _fact(one: Any, number: int, score: float, source: str) -> Fact:
    if not isinstance(one, dict) or one.keys() - {"name", "arguments", "score", "source"}:
        raise InvalidRequest.of("rules_facts_shape", where=f"fact {number}")
    arguments: Any = one.get("arguments", {})
    given: Any = one.get("score", score)
    name, said = one.get("name"), one.get("source", source)
    plain = isinstance(arguments, dict) and all(
        isinstance(key, str) and isinstance(value, str | int | float) for key, value in arguments.items()
    )
    if not plain or not isinstance(name, str) or not isinstance(said, str):
        raise InvalidRequest.of("rules_facts_shape", where=f"fact {number}")
    if isinstance(given, bool) or not isinstance(given, int | float):
        raise InvalidRequest.of("rules_facts_shape", where=f"fact {number}")
    found: dict[str, Value] = dict(arguments)
    return Fact(name, found, float(given), said)


def _arguments(one: FactType) -> dict[str, Any]:
    return _object({name: kind.schema() for name, kind in one.arguments.items()})


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": [*properties],
        "additionalProperties": False,
    }
