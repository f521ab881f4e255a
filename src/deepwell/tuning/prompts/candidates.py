"""`Candidate`: one prompt of a search, made of instructions and a set of examples."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from deepwell.dialogue.prompts.text import PromptMessage, PromptText
from deepwell.errors import DeepwellError
from deepwell.tuning.prompts.rows import Row

__all__ = ["Candidate", "Example", "ExampleSet", "Instruction", "first_candidate", "usable"]


@dataclass(frozen=True, slots=True)
class Example:
    """A question with its answer, which a prompt shows as two messages."""

    input: str
    answer: str


@dataclass(frozen=True, slots=True)
class ExampleSet:
    """Examples in their order.

    Attributes:
        kind: the rows they were drawn from: those that the start answers right, wrong, or any of them; own: of the start.
    """

    examples: tuple[Example, ...] = ()
    kind: str = ""


@dataclass(frozen=True, slots=True)
class Instruction:
    """The system message of a prompt, with its origin: start, rewrite, mutation or file."""

    text: str
    origin: str


@dataclass(frozen=True, slots=True)
class Candidate:
    """A prompt: the start with other instructions and other examples.

    Attributes:
        start: the start without its examples.
    """

    start: PromptText
    instruction: Instruction
    shown: ExampleSet = ExampleSet()

    @property
    def text(self) -> PromptText:
        """The prompt as the registry keeps it."""
        turns: list[PromptMessage] = []
        for one in self.shown.examples:
            turns += [PromptMessage("user", one.input), PromptMessage("assistant", one.answer)]
        return replace(
            self.start, instructions=self.instruction.text, messages=(*self.start.messages, *turns)
        )

    @property
    def name(self) -> str:
        """Short description for tables."""
        count = len(self.shown.examples)
        return self.instruction.origin + (f" + {count} examples ({self.shown.kind})" if count else "")

    @property
    def key(self) -> str:
        """Hash of all messages."""
        text = self.text
        parts = [text.instructions, *(f"{one.role}\0{one.content}" for one in text.messages)]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]

    def conversation(self, row: Row) -> list[dict[str, str]]:
        """Returns the messages that a model reads for a row: a response with this prompt and the row's input.

        Raises:
            InvalidRequest: the row lacks a field that the prompt has a variable for.
        """
        text = self.text
        messages = text.filled(values_of(text.variables, row)) if text.variables else _plain(text)
        told = [{"role": str(one.role), "content": one.content} for one in messages]
        return [*told, {"role": "user", "content": row.input}]


def first_candidate(start: PromptText) -> Candidate:
    """Returns a prompt as a candidate: its last messages are its examples, as far as they are questions with answers."""
    messages = list(start.messages)
    shown: list[Example] = []
    while len(messages) > 1 and (messages[-2].role, messages[-1].role) == ("user", "assistant"):
        shown.insert(0, Example(messages[-2].content, messages[-1].content))
        messages = messages[:-2]
    bare = replace(start, messages=tuple(messages))
    return Candidate(
        bare, Instruction(start.instructions, "start"), ExampleSet(tuple(shown), "own" if shown else "")
    )


def values_of(variables: Mapping[str, str], row: Row) -> dict[str, str]:
    """Returns the values of a prompt's variables: the fields of the row with their names."""
    return {name: str(row.fields[name]) for name in variables if name in row.fields}


def usable(text: PromptText) -> bool:
    """Returns whether the registry would take a prompt: braces in an example, say, could open a variable."""
    try:
        text.check()
    except DeepwellError:
        return False
    return True


def _plain(text: PromptText) -> Sequence[PromptMessage]:
    head = (PromptMessage("system", text.instructions),) if text.instructions else ()
    return (*head, *text.messages)
