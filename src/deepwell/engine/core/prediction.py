"""`Predictor`: drafts made by a model's own multi-token prediction layer (arXiv:2412.19437, section 2.2).

Row i of the layer joins the state of position i with the token at i + 1 and predicts the one at i + 2. The layer has its
own pages, one layer under the model's block table (and its slots), so it must read every row once. Rows of a prompt are read
as they are computed, only for what the pages keep. Rows of drawn tokens are read when a draft is made. Further tokens come
from the layer's own state and guess; the rows of guesses are written again once the tokens are known.

Predictions never change an answer. One that is lost, or made from a page that another sequence filled, only costs a draft.
"""

from __future__ import annotations

from collections.abc import Sequence as Items
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deepwell.engine.backends.backend import KVCache, Model
from deepwell.engine.batch import Batch
from deepwell.engine.core.sampler import draw, uniform
from deepwell.engine.core.sequence import Sequence
from deepwell.engine.core.speculation import PENDING_ROWS, Pending
from deepwell.engine.core.step import Move, ScheduledStep
from deepwell.engine.limits import PASS_ROWS
from deepwell.errors import DeepwellError

__all__ = ["Predictor"]


@dataclass(frozen=True, slots=True)
class _Span:
    """Rows of one sequence for one pass: positions from `first` on, the token after each, and the states there."""

    sequence: Sequence
    first: int
    tokens: NDArray[np.int32]
    states: NDArray[np.float32]


class Predictor:
    """Owns the prediction layer, its pages, and the buffer for states."""

    def __init__(self, model: Model, cache: KVCache) -> None:
        self._model = model
        self._cache = cache
        self._states = np.empty((0, model.state_size), np.float32)
        self._guesses: dict[int, list[int]] = {}  # position in the step -> predicted tokens

    def states(self, rows: int) -> NDArray[np.float32]:
        """Returns the array that the model fills with the states of a step, [rows, state_size]."""
        if rows > len(self._states):
            self._states = np.empty((rows, self._model.state_size), np.float32)
        return self._states[:rows]

    def move(self, moves: Items[Move]) -> None:
        """Moves the layer's own pages as those of the model."""
        for move in moves:
            self._model.shift_blocks(self._cache, move.sources, move.targets, move.positions)

    def draft(self, step: ScheduledStep) -> None:
        """Makes the drafts that a step leaves to the layer, and writes them after the known tokens of its sequences."""
        self._guesses.clear()
        ready: list[int] = []
        for index in step.predicted:
            pending = step.sequences[index].drafts.pending
            if pending is not None and pending.count and pending.end == step.sequences[index].num_tokens - 1:
                ready.append(index)
        depth, spans = 1, [self._pending(step.sequences[index]) for index in ready]
        while ready:
            deeper = [index for index in ready if step.predicted[index] > depth]
            tokens, states = self._predict(spans, depth, bool(deeper))
            spans = list[_Span]()
            for row, index in enumerate(ready):
                sequence = step.sequences[index]
                guesses: list[int] = self._guesses.setdefault(index, [])
                guesses.append(int(tokens[row]))
                if len(guesses) <= step.predicted[index]:
                    sequence.tokens[sequence.num_tokens + depth - 1] = tokens[row]
                if index in deeper:
                    first = sequence.num_tokens - 2 + depth
                    spans.append(_Span(sequence, first, tokens[row : row + 1], states[row : row + 1]))
            ready, depth = deeper, depth + 1
        for index, count in step.predicted.items():
            if (
                index not in self._guesses
            ):  # no prediction was possible, but the reserved rows must hold tokens
                sequence = step.sequences[index]
                sequence.tokens[sequence.num_tokens : sequence.num_tokens + count] = sequence.last_token

    def observe(self, step: ScheduledStep, drawn: Items[Items[int]]) -> None:
        """Processes a computed step before it is committed. Its `states` are filled; `drawn[i]` are `sequences[i]`'s tokens."""
        spans: list[_Span] = []
        row = 0
        for index, (sequence, count, tokens) in enumerate(
            zip(step.sequences, step.counts, drawn, strict=True)
        ):
            states = self._states[row : row + count]
            row += count
            if sequence.drafts.odds is not None and index in self._guesses:
                sequence.drafts.odds.learn(self._guesses[index], tokens)
            drafted = sequence.drafted(count)
            kept = count - drafted + min(drafted, max(0, len(tokens) - 1))
            behind = sequence.tokens[
                sequence.computed + 1 : min(sequence.computed + 1 + kept, sequence.num_tokens)
            ]
            if len(behind) < kept:  # the successors of the last rows are the drawn tokens
                behind = np.concatenate([behind, np.asarray(tokens, np.int32)])[:kept]
            spans += self._take(sequence, behind, states[: len(behind)])
        self._guesses.clear()
        self._write(spans)

    def _take(
        self, sequence: Sequence, tokens: NDArray[np.int32], states: NDArray[np.float32]
    ) -> list[_Span]:
        """Keeps rows whose successor was drawn, as far as there is room, and returns those that the layer reads now."""
        first = sequence.computed
        prompt = min(max(0, sequence.num_prompt - 1 - first), len(tokens))
        spans = [_Span(sequence, first, tokens[:prompt], states[:prompt])] if prompt else []
        first, tokens, states = first + prompt, tokens[prompt:], states[prompt:]
        if not len(tokens):
            return spans
        pending = sequence.drafts.pending
        if pending is None:
            pending = sequence.drafts.pending = Pending(self._model.state_size)
        if pending.count + len(tokens) > PENDING_ROWS:
            if pending.count and pending.end == first:
                spans.append(self._pending(sequence, copy=True))
            pending.count = 0
            spill = len(tokens) - 1
            if spill:
                spans.append(_Span(sequence, first, tokens[:spill], states[:spill]))
            first, tokens, states = first + spill, tokens[spill:], states[spill:]
        pending.add(first, tokens, states)
        return spans

    def _pending(self, sequence: Sequence, *, copy: bool = False) -> _Span:
        """Removes all kept rows of a sequence and returns them as a span."""
        pending = sequence.drafts.pending
        assert pending is not None
        first, tokens, states = (
            pending.first,
            pending.tokens[: pending.count],
            pending.states[: pending.count],
        )
        pending.count = 0
        return (
            _Span(sequence, first, tokens.copy(), states.copy())
            if copy
            else _Span(sequence, first, tokens, states)
        )

    def _predict(
        self, spans: list[_Span], depth: int, onward: bool
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Predicts from each span's last row the token `depth` places after the known ones, and with `onward` its state."""
        batch = _batch(spans, outputs=True)
        rows, vocab = len(spans), self._model.vocab_size
        argmax = np.empty(rows, np.int32)
        drawn = [row for row, span in enumerate(spans) if not span.sequence.plain]
        logits = np.empty((rows, vocab), np.float32) if drawn else None
        after = np.empty((rows, self._model.state_size), np.float32) if onward else None
        previous = np.concatenate([span.states for span in spans])
        self._model.forward(
            batch, self._cache, argmax=argmax, logits=logits, previous=previous, output_states=after
        )
        # A row of NaNs has no largest logit, but the index that stands for it must be a valid token.
        argmax[(argmax < 0) | (argmax >= vocab)] = 0
        if logits is not None:
            for row in drawn:
                argmax[row] = _draw(spans[row].sequence, logits[row], depth, int(argmax[row]))
        return argmax, np.empty((0, 0), np.float32) if after is None else after

    def _write(self, spans: list[_Span]) -> None:
        """Makes the layer write the pages of rows whose predictions are not needed."""
        part: list[_Span] = []
        rows = 0
        for span in spans:
            start = 0
            while start < len(span.tokens):
                stop = min(len(span.tokens), start + PASS_ROWS - rows)
                part.append(
                    _Span(span.sequence, span.first + start, span.tokens[start:stop], span.states[start:stop])
                )
                rows += stop - start
                start = stop
                if rows == PASS_ROWS:
                    self._read(part)
                    part, rows = [], 0
        if part:
            self._read(part)

    def _read(self, spans: list[_Span]) -> None:
        previous = np.concatenate([span.states for span in spans])
        self._model.forward(_batch(spans, outputs=False), self._cache, previous=previous)


def _draw(sequence: Sequence, logits: NDArray[np.float32], depth: int, otherwise: int) -> int:
    """Draws from the layer's logits with the random number that the sampler will use for the token itself.

    If both distributions agree, so do both draws, and sampled text is predicted as well as greedy text. Grammars are ignored.
    """
    length = sequence.num_tokens + depth - 1
    try:
        return draw(
            logits,
            sequence.params,
            tokens=sequence.tokens[:length],
            num_prompt=sequence.num_prompt,
            masked=sequence.stop_ids,
            u=uniform(sequence.seed, sequence.choice, length),
        )
    except DeepwellError:  # the logits have no finite maximum
        return otherwise


def _batch(spans: list[_Span], *, outputs: bool) -> Batch:
    """Builds the batch of one pass of the layer. The row with the first drawn token is the first absorbed row."""
    counts = [len(span.tokens) for span in spans]
    starts = np.zeros(len(spans) + 1, np.int32)
    np.cumsum(counts, out=starts[1:])
    tables = np.zeros((len(spans), max(len(span.sequence.blocks) for span in spans)), np.int32)
    for row, span in enumerate(spans):
        tables[row, : len(span.sequence.blocks)] = span.sequence.table[: len(span.sequence.blocks)]
    return Batch(
        tokens=np.concatenate([span.tokens for span in spans]),
        positions=np.concatenate(
            [
                np.arange(count, dtype=np.int32) + (span.first - span.sequence.forgotten)
                for span, count in zip(spans, counts, strict=True)
            ]
        ),
        seq_starts=starts,
        block_tables=tables,
        output_rows=starts[1:] - 1 if outputs else np.empty(0, np.int32),
        prompt_lengths=np.array(
            [max(0, span.sequence.num_prompt - 1 - span.sequence.forgotten) for span in spans], np.int32
        ),
    )
