"""`metered`: validators of JSON schemas whose work is counted, for schemas of strangers and arguments of models.

A short schema can ask for more work than a machine has: references that double, or many alternatives for each of many elements.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import Any, Final

__all__ = ["MOST_CHECKS", "TooMuchToCheck", "begin_check", "metered"]

MOST_CHECKS: Final = 100_000
"""Keywords that one check evaluates, with the elements that each looks at: one or two seconds at most."""

_left: ContextVar[list[int]] = ContextVar("work that is left to this check")


class TooMuchToCheck(Exception):
    """Raised when a check would take more than `MOST_CHECKS`."""


def begin_check() -> None:
    """Begins the count of a check. Each check of one context begins its own."""
    _left.set([MOST_CHECKS])


def metered(validator: Any, others: Mapping[str, Any]) -> Any:
    """Returns a class of validators that counts. Its checks raise `TooMuchToCheck`.

    Args:
        validator: class of the package `jsonschema`.
        others: functions for keywords, in place of those of the class.
    """
    from jsonschema.validators import extend

    checks: dict[str, Any] = {**validator.VALIDATORS, **others}
    return extend(validator, {name: _counted(check) for name, check in checks.items()})


def _counted(check: Callable[..., Any]) -> Callable[..., Any]:
    def counted(validator: Any, value: Any, instance: Any, schema: Any) -> Any:
        left = _left.get()
        left[0] -= 1 + _size(value) // 16 + _size(instance) // 4  # to look at an element is less than a check
        if left[0] < 0:
            raise TooMuchToCheck
        return check(validator, value, instance, schema)

    return counted


def _size(value: Any) -> int:
    return len(value) if isinstance(value, list | dict) else 0
