"""`Finding`: something that doctor found broken, with the way to mend it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from deepwell.errors import DeepwellError

__all__ = ["Finding", "SetupProblem", "found"]


class SetupProblem(DeepwellError):
    """Raised by nobody: the texts, in every language, of something in the set-up that is to be mended."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One problem.

    Attributes:
        check: name of the check that found it.
        error: the texts, which name the fix.
        mend: mends it where that can lose nothing; `doctor --fix` calls it. It returns what it did.
    """

    check: str
    error: DeepwellError
    mend: Callable[[], str] | None = None

    def shown(self) -> dict[str, Any]:
        """Returns the finding as JSON."""
        plain = {"check": self.check, "message": self.error.message, "fix": self.error.fix}
        return plain | {"safe_to_fix": self.mend is not None}


def found(check: str, key: str, mend: Callable[[], str] | None = None, /, **values: Any) -> Finding:
    """Returns the finding whose texts the catalogue of messages has under a key."""
    return Finding(check, SetupProblem.of(key, **values), mend)
