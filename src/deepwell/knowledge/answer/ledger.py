"""Assembly of a grounded prompt, with an account of every token: nothing is cut, and what is left out is listed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from deepwell.errors import ContextLengthExceeded
from deepwell.knowledge.answer.text import AnswerLanguage
from deepwell.knowledge.answer.wording import WORDING
from deepwell.knowledge.documents import Passage
from deepwell.knowledge.protocols import Writer

__all__ = ["GroundedPrompt", "Ledger", "LedgerLine", "assemble", "quoted"]

Part = Literal["instruction", "passage", "turn", "question", "template", "answer"]

_TEMPLATE_TOKENS: Final = (
    8  # around a message, in the chat templates that Deepwell knows; and once for the whole
)


@dataclass(frozen=True, slots=True)
class LedgerLine:
    """The tokens of one part of a prompt.

    Attributes:
        part: kind of the part. "template" is an upper estimate, "answer" the room that is kept free.
        tokens: number of its tokens.
        included: false if the part was left out, as a whole, because it did not fit or was not wanted.
        number: number of the passage, or index of the turn in the conversation.
        key: key of the passage's chunk.
    """

    part: Part
    tokens: int
    included: bool = True
    number: int | None = None
    key: int | None = None


@dataclass(frozen=True, slots=True)
class Ledger:
    """The account of a prompt.

    Attributes:
        context_tokens: length of the model's context.
        lines: every part that was offered, in order.
    """

    context_tokens: int
    lines: tuple[LedgerLine, ...]

    @property
    def used_tokens(self) -> int:
        """Tokens of all parts that went in, with the room for the answer."""
        return sum(line.tokens for line in self.lines if line.included)

    @property
    def left_out(self) -> tuple[LedgerLine, ...]:
        """The parts that did not go in."""
        return tuple(line for line in self.lines if not line.included)


@dataclass(frozen=True, slots=True)
class GroundedPrompt:
    """Messages for a model, and the passages in them.

    Attributes:
        messages: what the model is asked.
        passages: the passages that went in; the first has number 1.
        ledger: the account of tokens.
    """

    messages: tuple[dict[str, str], ...]
    passages: tuple[Passage, ...]
    ledger: Ledger

    @property
    def turns(self) -> frozenset[int]:
        """Indices of the turns of the conversation that went in, without those of the system."""
        lines = self.ledger.lines
        return frozenset(
            line.number for line in lines if line.part == "turn" and line.included and line.number is not None
        )


def quoted(passage: Passage, number: int) -> str:
    """Returns a passage as it stands in a prompt: number and headings in one line, then its text with > before each line.

    No text can leave its quotation, because every kind of line break in it begins a quoted line. The result is also what is
    to be scanned before a model sees it.
    """
    title = " - ".join(dict.fromkeys(part for part in (*passage.place.headings,) if part)) or passage.filename
    head = f"[{number}] {' '.join(title.split())}"
    return "\n".join([head, *(f"> {line}" for line in passage.text.splitlines() or [""])])


def assemble(
    question: str,
    passages: Sequence[Passage],
    writer: Writer,
    *,
    language: AnswerLanguage,
    answer_tokens: int,
    max_passages: int,
    turns: Sequence[Mapping[str, str]] = (),
    keep: Literal["newest", "all"] = "newest",
) -> GroundedPrompt:
    """Assembles a prompt from whole passages, the best first, and turns of the conversation.

    Args:
        question: the question, which can be understood without the turns.
        passages: found passages, best first.
        language: language of the instruction.
        answer_tokens: room to keep for the answer.
        max_passages: the most passages to put in.
        turns: earlier messages of the conversation. Those of the role "system" are always put in, in front.
        keep: "newest": as many of the newest turns as fit behind the passages; "all": as many passages as fit beside all turns.

    Raises:
        ContextLengthExceeded: the question, the best passage and the turns that have to stay do not fit.
    """
    wording = WORDING[language]
    system = [turn["content"] for turn in turns if turn["role"] in ("system", "developer")]
    instruction = "\n\n".join([*system, wording.instruction])
    lines = [LedgerLine("instruction", writer.count(instruction))]
    lines.append(LedgerLine("question", writer.count(wording.prompt.format(passages="", question=question))))
    lines.append(LedgerLine("answer", answer_tokens))
    lines.append(LedgerLine("template", 3 * _TEMPLATE_TOKENS))
    room = writer.context_tokens - sum(line.tokens for line in lines)
    reserved = _turn_tokens(turns, writer) if keep == "all" else 0
    room -= reserved
    taken: list[Passage] = []
    for number, passage in enumerate(passages, 1):
        tokens = writer.count(quoted(passage, number) + "\n\n")
        fits = len(taken) < max_passages and tokens <= room
        if number == 1 and not fits and reserved and tokens <= room + reserved:
            raise ContextLengthExceeded.of(
                "grounded_too_long", passage=tokens, turns=reserved, room=max(room, 0), param="messages"
            )
        if number == 1 and not fits:
            raise ContextLengthExceeded(
                f"the best passage has {tokens} tokens, and beside the question and {answer_tokens} tokens of answer the"
                f" context of {writer.context_tokens} has room for {max(room, 0)}",
                fix="use a larger context, or smaller chunks",
            )
        lines.append(LedgerLine("passage", tokens, fits, len(taken) + 1 if fits else None, passage.key))
        if fits:
            room -= tokens
            taken.append(passage)
    kept = _turns(turns, writer, room + reserved, lines)
    blocks = "\n\n".join(quoted(passage, number) for number, passage in enumerate(taken, 1))
    # Neither text is formatted a second time: braces in them stay as they are.
    asked = wording.prompt.format(passages=blocks, question=question)
    messages = ({"role": "system", "content": instruction}, *kept, {"role": "user", "content": asked})
    return GroundedPrompt(messages, tuple(taken), Ledger(writer.context_tokens, tuple(lines)))


def _turn_tokens(turns: Sequence[Mapping[str, str]], writer: Writer) -> int:
    """Returns the tokens of all turns, those of the system apart."""
    said = [turn["content"] for turn in turns if turn["role"] in ("user", "assistant")]
    return sum(writer.count(text) + _TEMPLATE_TOKENS for text in said)


def _turns(
    turns: Sequence[Mapping[str, str]], writer: Writer, room: int, lines: list[LedgerLine]
) -> list[dict[str, str]]:
    """Returns the newest turns that fit, without a gap, and enters all of them into the ledger."""
    kept: list[dict[str, str]] = []
    open_ = True
    for index in range(len(turns) - 1, -1, -1):
        turn = turns[index]
        if turn["role"] not in ("user", "assistant"):
            continue
        tokens = writer.count(turn["content"]) + _TEMPLATE_TOKENS
        open_ = open_ and tokens <= room
        lines.append(LedgerLine("turn", tokens, open_, index))
        if open_:
            room -= tokens
            kept.append({"role": turn["role"], "content": turn["content"]})
    return kept[::-1]
