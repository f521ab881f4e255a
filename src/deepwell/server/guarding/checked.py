"""`Checked`: a request that the guard has read."""

from __future__ import annotations

from dataclasses import dataclass, field

from deepwell.messages import Language
from deepwell.server.guarding.grounds import Grounds

__all__ = ["Checked", "NotChecked"]


class NotChecked(Exception):
    """Raised when a route asks for text that the guard has not been asked about. It is a fault of the route."""


@dataclass(slots=True)
class Checked:
    """A request that the guard has read.

    Attributes:
        tenant: the caller's.
        language: of the refusal.
        refused_by: the rule that blocks the request, so that its answer is a refusal; empty: none does.
        inner: the text is part of an answer that is read as a whole later on.
        marked: whether the answer ends with the mark of generated content.
        system: the system messages.
        said: the texts of the request, and of the passages that the model was shown for it.
        grounds: the passages that the answer is to rest on; None if it rests on none.
    """

    tenant: str
    language: Language = "en"
    refused_by: str = ""
    inner: bool = False
    marked: bool = False
    system: str = ""
    said: list[str] = field(default_factory=list[str])
    grounds: Grounds | None = None

    @property
    def blocked(self) -> bool:
        """True if the answer is a refusal."""
        return bool(self.refused_by)

    @classmethod
    def part(cls) -> Checked:
        """Returns the note of a text that the server asks for itself, on its way to an answer that is read as a whole."""
        return cls("", inner=True)
