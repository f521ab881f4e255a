"""`BatchBuilder`: converts scheduled steps to flat arrays."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from deepwell.engine.batch import BLOCK_TOKENS, Batch
from deepwell.engine.core.sequence import Sequence
from deepwell.engine.core.step import ScheduledStep

__all__ = ["BatchBuilder", "output_rows_of"]


class BatchBuilder:
    """Lays out scheduled steps as batches, in arrays that are allocated once.

    The batch of a step is valid until the next `build`. A block-table row is copied only if its sequence or its length
    changed, and pure decode steps of equal size share one `Batch`.
    """

    def __init__(self, max_sequences: int, max_further_rows: int, max_model_len: int) -> None:
        rows = max_sequences + max_further_rows
        self._tokens = np.zeros(rows, np.int32)
        self._positions = np.zeros(rows, np.int32)
        self._seq_starts = np.zeros(max_sequences + 1, np.int32)
        self._output_rows = np.zeros(rows, np.int32)
        self._prompt_lengths = np.zeros(max_sequences, np.int32)
        self._tables = np.zeros((max_sequences, -(-max_model_len // BLOCK_TOKENS)), np.int32)
        # The block list that a table row shows, and how much of it. A preempted sequence, or one
        # whose window slides, starts a new list.
        self._shown: list[tuple[list[int], int]] = [([], 0)] * max_sequences
        self._each_row = np.arange(max_sequences + 1, dtype=np.int32)
        self._decode_batches: dict[int, Batch] = {}

    def build(self, step: ScheduledStep) -> Batch:
        """Builds the batch of a step. Its output rows are those that `output_rows_of` counts, sequence by sequence."""
        batch = self._build(step)
        if any(sequence.memory for sequence in step.sequences):
            batch = replace(batch, memories=tuple(s.memory for s in step.sequences))
        if all(sequence.adapter is None for sequence in step.sequences):
            return batch
        return replace(batch, adapters=tuple(s.adapter and s.adapter.weights for s in step.sequences))

    def _build(self, step: ScheduledStep) -> Batch:
        sequences = step.sequences
        self._fill_tables(sequences)
        decoding = 0 if step.drafted else step.decoding
        self._tokens[:decoding] = [s.last_token for s in sequences[:decoding]]
        self._positions[:decoding] = [s.computed - s.forgotten for s in sequences[:decoding]]
        if decoding == len(sequences):
            return self._decode_batch(decoding)

        self._seq_starts[: decoding + 1] = self._each_row[: decoding + 1]
        self._output_rows[:decoding] = self._each_row[:decoding]
        row = outputs = decoding
        for index in range(decoding, len(sequences)):
            sequence, count = sequences[index], step.counts[index]
            start = sequence.computed
            self._tokens[row : row + count] = sequence.tokens[start : start + count]
            self._positions[row : row + count] = np.arange(start, start + count) - sequence.forgotten
            wanted = output_rows_of(sequence, count)
            first = (
                row + max(0, sequence.first_row - start)
                if sequence.wants_prompt_rows
                else row + count - wanted
            )
            self._output_rows[outputs : outputs + wanted] = np.arange(first, first + wanted)
            row += count
            outputs += wanted
            self._seq_starts[index + 1] = row
        return Batch(
            tokens=self._tokens[:row],
            positions=self._positions[:row],
            seq_starts=self._seq_starts[: len(sequences) + 1],
            block_tables=self._tables[: len(sequences)],
            output_rows=self._output_rows[:outputs],
            prompt_lengths=self._prompt_lengths[: len(sequences)],
        )

    def _decode_batch(self, sequences: int) -> Batch:
        batch = self._decode_batches.get(sequences)
        if batch is None:
            batch = self._decode_batches[sequences] = Batch(
                tokens=self._tokens[:sequences],
                positions=self._positions[:sequences],
                seq_starts=self._each_row[: sequences + 1],
                block_tables=self._tables[:sequences],
                output_rows=self._each_row[:sequences],
                prompt_lengths=self._prompt_lengths[:sequences],
            )
        return batch

    def _fill_tables(self, sequences: list[Sequence]) -> None:
        for row, sequence in enumerate(sequences):
            blocks, shown = self._shown[row]
            count = len(sequence.blocks)
            if blocks is not sequence.blocks or shown != count:
                self._tables[row, :count] = sequence.table[:count]
                self._tables[row, count:shown] = 0
                self._prompt_lengths[row] = max(0, sequence.num_prompt - sequence.forgotten)
                self._shown[row] = (sequence.blocks, count)


def output_rows_of(sequence: Sequence, count: int) -> int:
    """Returns how many of the next `count` rows of a sequence have an output that is read.

    These are the rows from `first_row` on if prompt rows count (`score`, `embed`, `prompt_logprobs`), else the last row if
    it yields a token, and all drafts.
    """
    end = sequence.computed + count
    draws = sequence.draws and end >= sequence.num_tokens
    if not sequence.wants_prompt_rows:
        return draws + sequence.drafted(count)
    if sequence.kind == "embed":
        return count
    # The last prompt token has no successor.
    return max(0, min(end, sequence.num_prompt - 1) - max(sequence.computed, sequence.first_row)) + draws
