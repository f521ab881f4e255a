"""`blocks_of`, `map_reduce`: a document read as a whole, in overlapping blocks, by a model that holds one block at a time.

A question about the whole of a text ("Summarise it", "Which rules does it set?") has no one sentence that answers it, and
neither compression nor retrieval finds one. Here the model reads every token: it takes notes of each block (map), then notes of
the notes until they fit one prompt, from which it answers (reduce).

NOTE: seams. Blocks end where sentences end. Each block begins with the last sentences of the one before, so that "it" and
"this rule" have what they refer to. What two neighbours have both noted of these is kept once.

NOTE: time. The prompts of all blocks begin alike, so that the prefix cache computes the instruction and the question once. The
blocks are independent and run in one batch; the engine gives each the same tokens in any company.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from deepwell.errors import ContextLengthExceeded
from deepwell.knowledge.answer.text import language_of
from deepwell.knowledge.context.pieces import Piece, Source, cut
from deepwell.knowledge.context.tokens import Tokens
from deepwell.knowledge.protocols import Writer
from deepwell.knowledge.sentences import sentence_spans
from deepwell.models.text.shipped import shipped

__all__ = ["BLOCK_OPTIONS", "Block", "BlockOptions", "MapReduced", "blocks_of", "joined_notes", "map_reduce"]

_AT_ONCE: Final = 16  # blocks that are read at the same time
_MOST_ROUNDS: Final = 6

_WORDS: Final = {
    "en": (
        shipped(
            "{question}\n\nThis is one part of a longer text. Note in three sentences what it says about the request.\n\n{text}"
        ),
        shipped(
            "{question}\n\nThese are notes of all parts of a text, in their order. Answer from them.\n\n{text}"
        ),
    ),
    "zh": (
        shipped(
            "{question}\n\n以下是一篇长文的一部分。请用不超过三句话，记下其中与上述要求有关的内容。\n\n{text}"
        ),
        shipped("{question}\n\n以下是一篇文章各部分的笔记，按原文顺序排列。请根据这些笔记回答。\n\n{text}"),
    ),
}


@dataclass(frozen=True, slots=True)
class BlockOptions:
    """Sizes of blocks and notes.

    Attributes:
        tokens: most tokens of a block, with what it repeats.
        overlap: most tokens that a block repeats of the one before.
        note_tokens: most tokens of the notes of a block.
        answer_tokens: most tokens of the answer.
    """

    tokens: int = 512
    overlap: int = 64
    note_tokens: int = 96
    answer_tokens: int = 512


BLOCK_OPTIONS: Final = BlockOptions()
"""The sizes unless others are given."""


@dataclass(frozen=True, slots=True)
class Block:
    """A stretch of a text.

    Attributes:
        start, end: offsets in the text.
        own: offset at which what the block before has not shown begins.
        tokens: tokens of the text that begin between `own` and `end`: those of all blocks add up to the text's.
        repeated: tokens of the text that begin between `start` and `own`.
    """

    start: int
    own: int
    end: int
    tokens: int
    repeated: int


@dataclass(frozen=True, slots=True)
class MapReduced:
    """An answer over a whole text, and what was read for it.

    Attributes:
        answer: the answer.
        blocks: number of blocks.
        rounds: rounds of notes: 1 where the notes of the blocks fit one prompt.
        source_tokens: tokens of the text. All of them were read.
        repeated_tokens: tokens that were read twice, in overlaps.
        note_tokens: tokens of the notes of all rounds.
        lost_tokens: tokens of notes that the answer does not rest on, since a model that does not shorten its notes comes to
            no end; 0 in all other cases.
    """

    answer: str
    blocks: int
    rounds: int
    source_tokens: int
    repeated_tokens: int
    note_tokens: int
    lost_tokens: int


def blocks_of(source: Source, options: BlockOptions = BLOCK_OPTIONS) -> list[Block]:
    """Returns the blocks of a text, in order. A sentence that alone passes a block is cut as `pieces` cuts it.

    A sentence that cannot be cut is a block of its own, however long it is.
    """
    pieces = cut([source], max(1, options.tokens - options.overlap))
    found: list[Block] = []
    first = 0
    while first < len(pieces):
        lead = _lead(pieces, first, options.overlap) if first else first
        repeated = sum(one.tokens for one in pieces[lead:first])
        stop, tokens = first, 0
        while stop < len(pieces) and (
            stop == first or repeated + tokens + pieces[stop].tokens <= options.tokens
        ):
            tokens += pieces[stop].tokens
            stop += 1
        found.append(Block(pieces[lead].start, pieces[first].start, pieces[stop - 1].end, tokens, repeated))
        first = stop
    return found


def _lead(pieces: Sequence[Piece], first: int, overlap: int) -> int:
    """Returns the first of the pieces in front of a block that it repeats."""
    lead, size = first, 0
    while lead and size + pieces[lead - 1].tokens <= overlap:
        lead -= 1
        size += pieces[lead].tokens
    return lead


async def map_reduce(
    text: str,
    question: str,
    writer: Writer,
    tokens: Tokens,
    options: BlockOptions = BLOCK_OPTIONS,
    *,
    told: Callable[[int, int], None] = lambda done, total: None,
) -> MapReduced:
    """Answers a question by notes of all blocks of a text.

    Args:
        tokens: counts as the writer's model does.
        told: is called with the number of blocks that were read and of all; those of later rounds come to both.

    Raises:
        ContextLengthExceeded: the question leaves no room for a block beside it.
    """
    map_words, reduce_words = _WORDS[language_of(question)]
    source = Source.read(text, tokens)
    blocks = blocks_of(source, options)
    longest = max((one.tokens + one.repeated for one in blocks), default=0)
    room = writer.context_tokens - _size(map_words, question, writer)
    if room - options.note_tokens < max(longest, options.tokens):
        raise ContextLengthExceeded.of(
            "context_whole_too_long",
            tokens=_size(map_words, question, writer) + longest,
            room=writer.context_tokens - options.note_tokens,
            param="messages",
        )
    done, total = 0, len(blocks)
    gate = asyncio.Semaphore(_AT_ONCE)

    async def noted(shown: str) -> str:
        nonlocal done
        async with gate:
            asked = map_words.format(question=question, text=shown.strip())
            found = await writer.write(
                [{"role": "user", "content": asked}], max_tokens=options.note_tokens, temperature=0.0
            )
        done += 1
        told(done, total)
        return found.strip()

    told(0, total)
    most = writer.context_tokens - _size(reduce_words, question, writer) - options.answer_tokens
    most = max(options.tokens, most // 2)
    shown = [text[one.start : one.end] for one in blocks]
    rounds = note_tokens = lost = 0
    while True:
        notes = await asyncio.gather(*map(noted, shown))
        rounds += 1
        joined = joined_notes(notes)
        size = tokens.count(joined)
        note_tokens += size
        if size <= most or len(shown) <= 1:
            break
        again = Source.read(joined, tokens)
        parts = [joined[one.start : one.end] for one in blocks_of(again, options)]
        if rounds == _MOST_ROUNDS or len(parts) >= len(shown):
            joined, lost = joined[: int(again.starts[most])], size - most
            break
        shown = parts
        total += len(shown)
    asked = reduce_words.format(question=question, text=joined)
    answer = await writer.write(
        [{"role": "user", "content": asked}], max_tokens=options.answer_tokens, temperature=0.0
    )
    repeated = sum(one.repeated for one in blocks)
    return MapReduced(answer.strip(), len(blocks), rounds, len(source.starts), repeated, note_tokens, lost)


def joined_notes(notes: Sequence[str]) -> str:
    """Returns the notes of blocks as one text, in order. A sentence that the notes of two neighbours share is kept once."""
    found: list[str] = []
    before: frozenset[str] = frozenset()
    for note in notes:
        said = [note[a:b] for a, b in sentence_spans(note)]
        fresh = [one for one in dict.fromkeys(said) if _plain(one) not in before]
        before = frozenset(map(_plain, said))
        if fresh:
            found.append(("" if language_of(note) == "zh" else " ").join(fresh))
    return "\n".join(found)


def _plain(sentence: str) -> str:
    return " ".join(sentence.casefold().split()).rstrip(".。!！?？")


def _size(words: str, question: str, writer: Writer) -> int:
    """Returns the tokens around a text, with some for the chat template."""
    return writer.count(words.format(question=question, text="")) + 64
