"""`AigcLabel`: the fields of an embedded label, as GB 45438-2025 (annex E) names them."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, Final, Literal, Self, cast

from deepwell.errors import InvalidRequest

__all__ = ["KEYWORD", "MOST_BYTES", "AigcLabel"]

KEYWORD: Final = "AIGC"
"""Name of the metadata field in every kind of file."""

MOST_BYTES: Final = 16 << 10
"""Longest embedded label that is read."""

_NAMES: Final = (
    "Label",
    "ContentProducer",
    "ProduceID",
    "ReservedCode1",
    "ContentPropagator",
    "PropagateID",
    "ReservedCode2",
)
_NEEDED: Final = ("ContentProducer", "ProduceID", "ContentPropagator", "PropagateID")
# Printable ASCII without the blank, the quotation mark and the backslash.
_VALUE: Final = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]{0,512}")

Certainty = Literal["1", "2", "3"]
"""1: the content is generated; 2: it may be; 3: it is suspected to be."""


@dataclass(frozen=True, slots=True)
class AigcLabel:
    """The fields of an embedded label. Values are codes of printable ASCII without blanks, quotation marks and backslashes.

    Attributes:
        label: certainty that the content is generated.
        producer: code of the service that generated it.
        produce_id: number that the service gave it.
        reserved1: for the producer, such as a digest or a signature.
        propagator, propagate_id: of the service that spreads it. Where a file is first written they are the producer's.
        reserved2: for the propagator.

    Raises:
        InvalidRequest: a value is empty or has other characters.
    """

    label: Certainty
    producer: str
    produce_id: str
    reserved1: str
    propagator: str
    propagate_id: str
    reserved2: str

    def __post_init__(self) -> None:
        for name, value in self.fields().items():
            if not _VALUE.fullmatch(value) or (name in _NEEDED and not value):
                raise InvalidRequest(
                    f"{value[:80]!r} cannot be the {name} of a label",
                    fix="use a code of 1 to 512 ASCII characters without blanks, quotation marks and backslashes",
                )
        if self.label not in ("1", "2", "3"):
            raise InvalidRequest(f"{self.label!r} cannot be the Label of a label", fix="use 1, 2 or 3")

    @classmethod
    def first(cls, producer: str, produce_id: str, reserved: str = "") -> Self:
        """Returns the label of content that was just generated: the producer is the propagator too."""
        return cls("1", producer, produce_id, reserved, producer, produce_id, "")

    def fields(self) -> dict[str, str]:
        """Returns the fields by the names of the standard, in its order."""
        values = (
            self.label,
            self.producer,
            self.produce_id,
            self.reserved1,
            self.propagator,
            self.propagate_id,
            self.reserved2,
        )
        return dict(zip(_NAMES, values, strict=True))

    def text(self) -> str:
        """Returns the label as the JSON text that files hold: one object under the keyword."""
        inner = json.dumps(self.fields(), separators=(",", ":"))
        return f'{{"{KEYWORD}": {inner}}}'

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads a label.

        Raises:
            InvalidRequest: the text is no label.
        """
        try:
            if len(text) > MOST_BYTES:
                raise ValueError("it is too long")
            read = cast("Any", json.loads(text))
            return cls.of_fields(read[KEYWORD])
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise InvalidRequest(f"this is no label of generated content: {error}") from None

    @classmethod
    def of_fields(cls, fields: Any) -> Self:
        """Returns the label of fields by name. Raises `KeyError` or `TypeError` where one is missing or no text."""
        values = [fields[name] for name in _NAMES]
        if not all(isinstance(value, str) for value in values):
            raise TypeError("a field is no text")
        return cls(*values)
