"""`Context`: the effective configuration that checks look at, and what the operator supplies for them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from deepwell.safety.guard import Guard
from deepwell.safety.policy import Policy
from deepwell.safety.terms.detector import Terms
from deepwell.safety.terms.lists import TermList

if TYPE_CHECKING:
    from deepwell.settings import Settings
    from deepwell.storage.safety.audit import AuditStore

__all__ = ["Ask", "Banks", "Context", "Reply", "silent"]


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer of the model; `filtered` tells that the server's guard refused."""

    text: str
    filtered: bool = False


Ask = Callable[[Sequence[str]], Iterable[Reply]]
"""Answers prompts, in their order."""

Progress = Callable[[str, int, int], None]
"""Is told what is being done, how much of it is done, and how much there is."""


def silent(_what: str, _done: int, _total: int) -> None:
    """Tells nobody."""


@dataclass(frozen=True, slots=True)
class Banks:
    """The operator's files of test prompts, JSON lines; `sheets` are those that people filled in, by bank."""

    generation: Path | None = None
    refuse: Path | None = None
    answer: Path | None = None
    sheets: Mapping[str, Path] = field(default_factory=dict[str, Path])


@dataclass(frozen=True, slots=True)
class Context:
    """The things that checks look at.

    Attributes:
        settings: the effective ones.
        policy: of the guard; None: there is no guard.
        guard: what serves with this policy.
        trails: the audit trails of the configured database; None: they are not to be looked at.
        ask: asks the model; None: sampled runs are not run.
        guarded: whether `ask` passes a guard already, as a server with one does.
        samples: prompts that are sampled of each bank, where they are fewer than the standard asks for; None: as many.
        sheet_dir: folder for sheets on which people judge answers; None: none are written.
        seed: of the sampling.
    """

    settings: Settings
    policy: Policy | None = None
    guard: Guard | None = None
    trails: AuditStore | None = None
    banks: Banks = field(default_factory=Banks)
    ask: Ask | None = None
    guarded: bool = False
    samples: int | None = None
    sheet_dir: Path | None = None
    seed: int = 20250425
    progress: Progress = silent

    @property
    def lists(self) -> Sequence[TermList]:
        """The lists of terms that the guard has loaded."""
        if self.guard is None:
            return ()
        found = (one for one in self.guard.detectors.get("input", ()) if isinstance(one, Terms))
        return [one for detector in found for one in detector.lists]
