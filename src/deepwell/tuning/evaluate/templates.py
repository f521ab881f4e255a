"""Templates of graders: `{{ item.x }}` and `{{ sample.output_text }}`, as OpenAI's graders have them.

A variable is a namespace and a path of keys and indices: `item.answer`, `sample.output_tools[0].function.name`,
`item['two words']`. Looking one up reads dictionaries and lists, nothing else, and a value that looks like a template is not
expanded again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deepwell.errors import InvalidRequest

__all__ = [
    "MAX_VARIABLES",
    "NAMESPACES",
    "UnknownVariable",
    "Variable",
    "check_template",
    "render",
    "variables",
]

NAMESPACES = ("item", "sample")

MAX_VARIABLES = 1000
"""Most variables of a template, and of a grader: each is looked up in every line of a file."""

_MAX_CHARACTERS = 1_000_000  # of a rendered text
_STEP = re.compile(r"""\.([^\s.\[\]'"]+)|\[(\d{1,9})\]|\[(?:'([^']*)'|"([^"]*)")\]""")
_NAME = re.compile(r"[A-Za-z_]\w*")


class UnknownVariable(InvalidRequest):
    """Raised when a template names a variable that its item or its sample does not have."""


@dataclass(frozen=True, slots=True)
class Variable:
    """A variable of a template.

    Attributes:
        path: keys and indices below the namespace.
        text: the variable as it is written.
    """

    namespace: str
    path: tuple[str | int, ...]
    text: str


def variables(template: str) -> tuple[Variable, ...]:
    """Returns the variables of a template, in their order.

    Raises:
        InvalidRequest: one of them cannot be read.
    """
    return tuple(_variable(template[start + 2 : end - 2].strip()) for start, end in _holes(template))


def check_template(template: str, namespaces: Sequence[str] = NAMESPACES, param: str | None = None) -> None:
    """Checks that a template can be read and uses only some namespaces.

    Raises:
        InvalidRequest: it does not; `param` is the name of the field in the error.
    """
    try:
        if template.count("{{") > MAX_VARIABLES:
            raise InvalidRequest(
                f"the template has more than {MAX_VARIABLES} variables",
                fix="use fewer, or pass one object as a whole",
            )
        for variable in variables(template):
            if variable.namespace not in namespaces:
                raise _unreadable(variable.text, namespaces)
    except InvalidRequest as error:
        error.param = param
        raise


def render(template: str, *, item: Mapping[str, Any], sample: Mapping[str, Any] | None = None) -> str:
    """Returns a template with its variables replaced. Values that are no strings become JSON.

    Raises:
        UnknownVariable: the item or the sample does not have a variable.
        InvalidRequest: a variable cannot be read, or the text becomes longer than a million characters.
    """
    spaces: dict[str, Any] = {"item": item, "sample": sample or {}}
    pieces: list[str] = []
    last = total = 0
    for start, end in _holes(template):
        value = _value(_variable(template[start + 2 : end - 2].strip()), spaces)
        pieces += [template[last:start], value]
        total += len(value)
        last = end
        if total > _MAX_CHARACTERS:
            raise InvalidRequest(
                "the text of a template is longer than a million characters", fix="use shorter fields"
            )
    return "".join([*pieces, template[last:]])


def _holes(template: str) -> Iterator[tuple[int, int]]:
    """Yields where each `{{ ... }}` begins and ends.

    A search for a pattern would go to the end of the text for every `{{` without its `}}`: a request of one megabyte of braces
    would take hours.
    """
    end = 0
    while (start := template.find("{{", end)) >= 0 and (close := template.find("}}", start + 2)) >= 0:
        end = close + 2
        yield start, end


def _variable(text: str) -> Variable:
    name = _NAME.match(text)
    if name is None or name[0] not in NAMESPACES:
        raise _unreadable(text, NAMESPACES)
    path: list[str | int] = []
    place = name.end()
    while place < len(text):
        step = _STEP.match(text, place)
        if step is None:
            raise _unreadable(text, NAMESPACES)
        dotted, index, single, double = step.groups()
        path.append(int(index) if index else next(one for one in (dotted, single, double) if one is not None))
        place = step.end()
    if not path:
        raise _unreadable(text, NAMESPACES)
    return Variable(name[0], tuple(path), text)


def _value(variable: Variable, spaces: Mapping[str, Any]) -> str:
    value: Any = spaces[variable.namespace]
    for step in variable.path:
        if isinstance(value, Mapping) and str(step) in value:
            value = value[str(step)]
        elif isinstance(value, list | tuple) and isinstance(step, int) and step < len(value):
            value = value[step]
        else:
            known = ", ".join(sorted(map(str, spaces[variable.namespace]))[:20]) or "no fields"
            raise UnknownVariable(
                f"{{{{ {variable.text} }}}} has no value", fix=f"{variable.namespace} has: {known}"
            )
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _unreadable(text: str, namespaces: Sequence[str]) -> InvalidRequest:
    shown = text if len(text) <= 80 else f"{text[:80]}..."
    written = " or ".join(f"{{{{ {name}.field }}}}" for name in namespaces)
    return InvalidRequest(f"the template has {{{{ {shown} }}}}", fix=f"write {written}")
