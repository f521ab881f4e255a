"""Dependants of FastAPI's routes: what a signature asks for is read once for all applications of a process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

from fastapi.dependencies.models import Dependant

Analyse = Callable[..., Dependant]


def remembered(analyse: Analyse) -> Analyse:
    """Analyses each endpoint once. Applications made later get copies for their own closures over the same code.

    An endpoint that depends on others, or whose annotations are no texts, is analysed each time: those may be closures too.
    """
    known: dict[Any, Dependant] = {}

    def get_dependant(*, path: str, call: Callable[..., Any], **options: Any) -> Dependant:
        code = getattr(call, "__code__", None)
        asked = getattr(call, "__annotations__", {})
        if (
            code is None
            or hasattr(call, "__wrapped__")
            or not all(isinstance(one, str) for one in asked.values())
        ):
            return analyse(path=path, call=call, **options)
        defaults = repr((call.__defaults__, call.__kwdefaults__, options))
        key = path, call.__module__, call.__qualname__, code, tuple(asked.items()), defaults
        if key not in known:
            found = analyse(path=path, call=call, **options)
            if found.dependencies:
                return found
            known[key] = replace(found, call=None)
        lists = {
            one.name: list(value)
            for one in fields(Dependant)
            if one.init and isinstance(value := getattr(known[key], one.name), list)
        }
        return replace(known[key], call=call, **lists)

    return get_dependant
