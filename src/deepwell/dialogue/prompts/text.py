"""`PromptText`: instructions and messages with variables, `{{name}}`, which a request fills.

A variable's value is put in as it is and read no further: braces in it open nothing.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from deepwell.errors import InvalidRequest

__all__ = [
    "ID_PATTERN",
    "MAX_FILLED",
    "MAX_MESSAGES",
    "MAX_TEXT",
    "MAX_VARIABLES",
    "MAX_VERSION",
    "NAME_PATTERN",
    "PromptMessage",
    "PromptText",
    "Role",
]

Role = Literal["system", "user", "assistant"]

ID_PATTERN: Final = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$"
"""Form of the id of a prompt: letters, digits, `_`, `.` and `-`."""

NAME_PATTERN: Final = r"^[A-Za-z_][A-Za-z0-9_]{0,62}$"
"""Form of the name of a variable."""

MAX_TEXT: Final = 32_768
"""Characters of one text."""

MAX_MESSAGES: Final = 64
"""Messages of a prompt."""

MAX_VARIABLES: Final = 64
"""Variables of a prompt."""

MAX_VERSION: Final = 999_999_999
"""Largest number of a version: nine digits."""

MAX_FILLED: Final = 4 << 20
"""Characters of all messages together, with values in the places of variables: a value stands in as many as there are."""

_SLOT = re.compile(r"\{\{[ \t]{0,8}([A-Za-z_][A-Za-z0-9_]{0,62})[ \t]{0,8}\}\}")
_SHOWN: Final = 30  # characters of a text in a message


@dataclass(frozen=True, slots=True)
class PromptMessage:
    """One message of a prompt, with variables."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class PromptText:
    """The text of a prompt.

    Attributes:
        instructions: the system message that it begins with; empty: it has none.
        messages: further messages, in front of the input of a request.
        variables: what each variable is for, by name.
    """

    instructions: str = ""
    messages: tuple[PromptMessage, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict[str, str])

    def check(self) -> None:
        """Checks that the text can be filled.

        Raises:
            InvalidRequest: it is empty or too large, braces open no variable, or `variables` are not those of the text.
        """
        texts = {"instructions": self.instructions}
        texts |= {f"messages.{number}.content": one.content for number, one in enumerate(self.messages)}
        if not any(text.strip() for text in texts.values()):
            raise InvalidRequest(
                "the prompt has no text", fix="write instructions or messages", param="instructions"
            )
        if len(self.messages) > MAX_MESSAGES:
            raise InvalidRequest(
                f"the prompt has {len(self.messages)} messages, more than {MAX_MESSAGES}",
                fix="write fewer",
                param="messages",
            )
        for place, text in texts.items():
            _check_text(place, text)
        used = dict.fromkeys(_names(texts.values()))
        if len(used) > MAX_VARIABLES:
            raise InvalidRequest(
                f"the prompt has {len(used)} variables, more than {MAX_VARIABLES}", fix="use fewer"
            )
        if missing := [name for name in used if name not in self.variables]:
            raise InvalidRequest(
                f"the text uses variables that are not described: {', '.join(missing)}",
                fix="say under `variables` what each is for",
                param="variables",
            )
        if unused := [name for name in self.variables if name not in used]:
            raise InvalidRequest(
                f"the text does not use the variables {', '.join(unused)}",
                fix="write {{name}} where a value is to stand, or remove them",
                param="variables",
            )

    def filled(self, values: Mapping[str, str]) -> tuple[PromptMessage, ...]:
        """Returns the messages with values in the places of variables; instructions come first, as a system message.

        Raises:
            InvalidRequest: values are missing, or there are some that the prompt does not have. The message names them.
                Or the messages would be too large.
        """
        if missing := [name for name in self.variables if name not in values]:
            raise InvalidRequest(
                f"Missing prompt variables: {', '.join(missing)}",
                fix="send a text for each under prompt.variables",
                param="prompt.variables",
            )
        if unknown := [name for name in values if name not in self.variables]:
            known = ", ".join(self.variables)
            raise InvalidRequest(
                f"Unknown prompt variables: {', '.join(name[:_SHOWN] for name in unknown)}",
                fix=f"the prompt has {known}" if known else "the prompt has no variables: leave them out",
                param="prompt.variables",
            )
        head = (PromptMessage("system", self.instructions),) if self.instructions else ()
        whole = (*head, *self.messages)
        texts = [one.content for one in whole]
        size = sum(map(len, texts)) + sum(len(values[name]) for name in _names(texts))
        if size > MAX_FILLED:  # before it is made: a text has room for thousands of places
            raise InvalidRequest(
                f"the prompt has about {size} characters with these variables, more than {MAX_FILLED}",
                fix="send shorter texts, or long ones in input",
                param="prompt.variables",
            )
        return tuple(
            PromptMessage(one.role, _SLOT.sub(lambda slot: values[slot[1]], one.content)) for one in whole
        )

    def as_formats(self) -> list[str]:
        """Returns the instructions and the messages with their variables in braces as `str.format` has them."""
        texts = [self.instructions, *(one.content for one in self.messages)]
        return [
            "".join(f"{{{part}}}" if at % 2 else _braced(part) for at, part in enumerate(_SLOT.split(text)))
            for text in texts
            if text
        ]

    def names(self, roles: Collection[Role], *, head: bool = True) -> list[str]:
        """Returns the variables in messages of some roles, each once; without `head` those of the instructions are left out."""
        texts = [self.instructions] if head and "system" in roles else []
        texts += [one.content for one in self.messages if one.role in roles]
        return list(dict.fromkeys(_names(texts)))


def _braced(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")


def _names(texts: Iterable[str]) -> list[str]:
    return [slot[1] for text in texts for slot in _SLOT.finditer(text)]


def _check_text(place: str, text: str) -> None:
    if len(text) > MAX_TEXT:
        raise InvalidRequest(
            f"{place} has {len(text)} characters, more than {MAX_TEXT}", fix="shorten it", param=place
        )
    if "\0" in text:
        raise InvalidRequest(f"{place} holds a NUL character", fix="remove it", param=place)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidRequest(
            f"{place} holds half of a surrogate pair, which is no character",
            fix="send whole characters",
            param=place,
        ) from None
    plain = _SLOT.sub(" ", text)
    at = plain.find("{{")
    if at >= 0:
        rest = plain[at : at + _SHOWN]
        raise InvalidRequest(
            f"{place} has braces that open no variable: {rest!r}",
            fix="write {{name}} with a name of letters, digits and _; put a space between braces that are text",
            param=place,
        )
