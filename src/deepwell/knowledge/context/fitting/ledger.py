"""`Ledger`: what happened to every token of a prompt, message by message.

Every token of the original prompt, as the chat template renders it, has one fate. Tokens of a message's text are entered with
the message; all others (the template's own, tools and calls) in one row, because a template may write them anywhere. The
tokens that the model reads beyond those that survive are `added`: ellipses, the heads of recalled passages, what the tokenizer
makes of the seams, and passages of a knowledge base with the instruction to answer from them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

from deepwell.knowledge.context.fitting.policy import AdapterState, ContextPolicy, Mechanism

__all__ = ["FATES", "Fate", "Fates", "Ledger", "LedgerPart", "LedgerRow"]

Fate = Literal["kept", "compressed", "recalled", "dropped", "forgotten"]


@dataclass(frozen=True, slots=True)
class Fates:
    """Tokens by their fate.

    Attributes:
        kept: the model reads them where they stood, in text that is whole.
        compressed: the model reads them in a text of which other parts were left out.
        recalled: the model reads them among the passages in front of the question.
        dropped: the model does not read them.
        forgotten: the model has read them, and they have left its window before the answer begins.
    """

    kept: int = 0
    compressed: int = 0
    recalled: int = 0
    dropped: int = 0
    forgotten: int = 0

    @property
    def total(self) -> int:
        """Tokens of all fates."""
        return self.read + self.dropped

    @property
    def read(self) -> int:
        """Tokens that are in the prompt that the model reads."""
        return self.kept + self.compressed + self.recalled + self.forgotten

    def __add__(self, other: Fates) -> Fates:
        return Fates(*(getattr(self, one) + getattr(other, one) for one in FATES))

    def as_dict(self) -> dict[str, int]:
        """Returns the numbers that are not 0, by the name of their fate."""
        return {one: count for one in FATES if (count := getattr(self, one))}

    @property
    def only(self) -> Fate | None:
        """The fate of all tokens, if it is one."""
        found: list[Fate] = [one for one in FATES if getattr(self, one)]
        return found[0] if len(found) == 1 else None


FATES: Final[tuple[Fate, ...]] = get_args(Fate)


@dataclass(frozen=True, slots=True)
class LedgerRow:
    """Messages `first` to `last`, which have the same role pattern and the same fate if there are several."""

    first: int
    last: int
    role: str
    fates: Fates

    def as_dict(self) -> dict[str, Any]:
        """Returns the row as JSON."""
        return {"first": self.first, "last": self.last, "role": self.role, **self.fates.as_dict()}


@dataclass(frozen=True, slots=True)
class LedgerPart:
    """A text that the server has put in place of an attachment. Its tokens are among those of its message.

    Attributes:
        kind: what the text is: a description of an image, a transcript of a recording, or the text of a document.
        tokens: its tokens, before anything was left out.
    """

    kind: Literal["image description", "transcript", "document"]
    tokens: int


@dataclass(frozen=True, slots=True)
class Ledger:
    """The account of one prompt.

    Attributes:
        policy: what the request allowed.
        mechanism: what was done.
        prompt_tokens: tokens of the prompt that the model reads.
        messages: one row a message of the request, in order; empty where all tokens have the same fate.
        template: tokens that belong to no message's text; all of them where there are no rows.
        adapter: what became of the adapter; None: the policy is another, or everything was kept.
        parts: the texts in place of attachments.
    """

    policy: ContextPolicy
    mechanism: Mechanism
    prompt_tokens: int
    messages: tuple[LedgerRow, ...]
    template: Fates
    adapter: AdapterState | None = None
    parts: tuple[LedgerPart, ...] = ()

    @classmethod
    def whole(cls, policy: ContextPolicy, prompt_tokens: int) -> Ledger:
        """Returns the ledger of a prompt that fits."""
        return cls(policy, "none", prompt_tokens, (), Fates(prompt_tokens))

    @property
    def fates(self) -> Fates:
        """The tokens of the original prompt."""
        return sum((one.fates for one in self.messages), self.template)

    @property
    def original_tokens(self) -> int:
        """Tokens of the original prompt, as the template renders it."""
        return self.fates.total

    @property
    def added(self) -> int:
        """Tokens that the model reads beyond those that survive; below 0 where seams joined more than the marks added."""
        return self.prompt_tokens - self.fates.read

    @property
    def lost(self) -> int:
        """Tokens that the answer cannot rest on."""
        found = self.fates
        return found.dropped + found.forgotten

    def totals(self) -> dict[str, int]:
        """Returns all fates and what was added, zeros too."""
        found = self.fates
        return {**{one: getattr(found, one) for one in FATES}, "added": self.added}

    def as_dict(self) -> dict[str, Any]:
        """Returns the ledger as JSON: totals, then runs of messages."""
        found: dict[str, Any] = {
            "policy": self.policy,
            "mechanism": self.mechanism,
            "original_tokens": self.original_tokens,
            "prompt_tokens": self.prompt_tokens,
            **{f"{name}_tokens": count for name, count in self.totals().items()},
        }
        if self.adapter is not None:
            found["adapter"] = self.adapter
        if self.parts:
            found["parts"] = [{"kind": one.kind, "tokens": one.tokens} for one in self.parts]
        if self.messages:
            found["messages"] = [row.as_dict() for row in joined(self.messages)]
            found["template"] = self.template.as_dict()
        return found


def joined(rows: Sequence[LedgerRow]) -> list[LedgerRow]:
    """Returns rows with neighbours of one and the same fate as one row, so that long conversations have short ledgers."""
    return list(_joined(rows))


def _joined(rows: Iterable[LedgerRow]) -> Iterator[LedgerRow]:
    held: LedgerRow | None = None
    for row in rows:
        if held is not None and (fate := held.fates.only) is not None and fate == row.fates.only:
            role = held.role if held.role == row.role else "several"
            held = LedgerRow(held.first, row.last, role, held.fates + row.fates)
            continue
        if held is not None:
            yield held
        held = row
    if held is not None:
        yield held
