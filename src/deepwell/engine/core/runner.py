"""`StepRunner`: runs one scheduled step through the model, and hands each sequence its output rows."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepwell.engine.backends.backend import KVCache, Model
from deepwell.engine.batch import Batch, Memory
from deepwell.engine.core.batch_builder import BatchBuilder, output_rows_of
from deepwell.engine.core.prediction import Predictor
from deepwell.engine.core.sampler import draw, log_normalizer, token_logprob, uniform
from deepwell.engine.core.sequence import Sequence
from deepwell.engine.core.speculation import accept
from deepwell.engine.core.step import ScheduledStep
from deepwell.engine.grammar.masks import MaskBudget
from deepwell.engine.limits import Limits
from deepwell.engine.memory import factor_memory
from deepwell.engine.protocol import TokenLogprob, Window
from deepwell.errors import DeepwellError, InvalidRequest

__all__ = ["StepResult", "StepRunner"]

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class StepResult:
    """The results of a step, by position of the sequence in it."""

    tokens: list[
        list[int]
    ]  # from `accept`: one, more with accepted drafts, none inside a prompt or without a mask
    logprobs: dict[int, list[TokenLogprob]] = field(default_factory=dict[int, list[TokenLogprob]])
    errors: dict[int, Exception] = field(
        default_factory=dict[int, Exception]
    )  # of sequences that cannot go on


@dataclass(slots=True)
class _OutputPlan:
    """The output arrays of one step; None if not needed."""

    rows: list[slice]  # of each sequence
    logits: NDArray[np.float32] | None = None  # [outputs, vocab_size]
    argmax: NDArray[np.int32] | None = None  # [outputs]
    hidden: NDArray[np.float32] | None = None  # [outputs, hidden_size]
    targets: NDArray[np.int32] | None = None  # [outputs]
    scores: NDArray[np.float32] | None = None  # [outputs]


class StepRunner:
    """Owns the model, its cache and its output arrays."""

    def __init__(
        self,
        model: Model,
        cache: KVCache,
        limits: Limits,
        max_model_len: int,
        predictor: Predictor | None = None,
    ) -> None:
        self._model = model
        self._positions = max_model_len
        self._predictor = predictor
        self._cache = cache
        max_rows = max(limits.prefill_tokens, limits.mixed_prefill_tokens, limits.draft_rows)
        self._builder = BatchBuilder(limits.max_sequences, max_rows, max_model_len)
        self._argmax = np.zeros(limits.max_sequences + max_rows, np.int32)
        self._logits = np.empty((0, model.vocab_size), np.float32)  # grows on demand
        self._hidden = np.empty((0, model.hidden_size), np.float32)
        self._masks = MaskBudget()

    @property
    def expert_loads(self) -> tuple[tuple[int, ...], ...]:
        """Number of rows that each expert of each mixture has seen."""
        return tuple(map(tuple, self._model.expert_loads.tolist()))

    @property
    def expert_reads(self) -> int:
        """Number of reads of any expert's weights."""
        return int(self._model.expert_reads.sum())

    def memory_of(self, window: Window | None) -> Callable[[], Memory] | None:
        """Returns what makes a memory for a sequence with this window; see `factor_memory`."""
        return window and factor_memory(self._model, self._cache, window, self._positions)

    def execute(self, step: ScheduledStep) -> StepResult:
        """Computes a step and draws its tokens. Scores, prompt logprobs and hidden sums are kept in the sequences."""
        predictor = self._predictor
        for move in step.moves:
            if move.memory is not None:
                self._model.remember_blocks(self._cache, move.memory, move.forgotten)
            self._model.shift_blocks(self._cache, move.sources, move.targets, move.positions)
        if predictor is None:
            return self._compute(step, None)
        predictor.move(step.moves)
        predictor.draft(step)
        result = self._compute(step, predictor.states(sum(step.counts)))
        predictor.observe(step, result.tokens)
        return result

    def _compute(self, step: ScheduledStep, states: NDArray[np.float32] | None) -> StepResult:
        """Computes a step; `states`, if given, receives the states of all rows."""
        batch = self._builder.build(step)
        if step.decoding < len(step.sequences) or any(s.needs_logits for s in step.sequences):
            return self._execute_mixed(step, batch, states)
        argmax = self._argmax[: step.decoding + step.drafted]
        self._forward(batch, states, argmax=argmax)
        drawn: list[int] = argmax.tolist()
        if max(drawn) < self._model.vocab_size and not step.drafted:
            return StepResult([[token] for token in drawn])
        result = StepResult([])
        row = 0
        for index, (sequence, count) in enumerate(zip(step.sequences, step.counts, strict=True)):
            result.tokens.append(self._take_argmax(result, index, sequence, drawn[row : row + count]))
            row += count
        return result

    def _forward(self, batch: Batch, states: NDArray[np.float32] | None, **outputs: Any) -> None:
        if states is not None:
            outputs["states"] = states
        self._model.forward(batch, self._cache, **outputs)

    def _take_argmax(self, result: StepResult, index: int, sequence: Sequence, drawn: list[int]) -> list[int]:
        tokens = accept(_drafts(sequence, len(drawn)), drawn, sequence.stop_ids)
        if tokens[-1] >= self._model.vocab_size:
            # A row of NaNs has no largest logit. Its request ends and the others go on. After accepted drafts the row
            # is computed again, as the first of the next step.
            tokens.pop()
            if not tokens:
                result.errors[index] = DeepwellError("the model's logits are not numbers")
        return tokens

    def _execute_mixed(
        self, step: ScheduledStep, batch: Batch, states: NDArray[np.float32] | None
    ) -> StepResult:
        plan = self._plan_outputs(step, len(batch.output_rows))
        started = time.perf_counter()
        self._forward(
            batch,
            states,
            logits=plan.logits,
            argmax=plan.argmax,
            hidden=plan.hidden,
            targets=plan.targets,
            target_logprobs=plan.scores,
        )
        constrained = {sequence.tenant for sequence in step.sequences if sequence.grammar is not None}
        if constrained:
            self._masks.begin(constrained, time.perf_counter() - started)
        result = StepResult([])
        for index, (sequence, rows) in enumerate(zip(step.sequences, plan.rows, strict=True)):
            tokens: list[int] = []
            if plan.hidden is not None and sequence.kind == "embed":
                _add_hidden(sequence, plan.hidden[rows])
            elif plan.scores is not None and sequence.kind == "score":
                _keep_scores(sequence, plan.scores[rows])
            elif plan.logits is not None and rows.stop > rows.start and sequence.needs_logits:
                try:
                    tokens = self._take_logits(result, index, sequence, step.counts[index], plan.logits[rows])
                except Exception as error:  # only this request fails, the others go on
                    if not isinstance(error, InvalidRequest):
                        _log.exception("sampling failed for request %s", sequence.request_id)
                    result.errors[index] = error
            elif plan.argmax is not None and rows.stop > rows.start:
                tokens = self._take_argmax(result, index, sequence, plan.argmax[rows].tolist())
            result.tokens.append(tokens)
        return result

    def _plan_outputs(self, step: ScheduledStep, outputs: int) -> _OutputPlan:
        """Returns the arrays that the step's output rows need, and the rows of each sequence."""
        rows: list[slice] = []
        first = 0
        logits = argmax = hidden = score = False
        for sequence, count in zip(step.sequences, step.counts, strict=True):
            span = output_rows_of(sequence, count)
            rows.append(slice(first, first + span))
            first += span
            if span:
                logits |= sequence.needs_logits
                argmax |= sequence.kind == "generate" and not sequence.needs_logits
            hidden |= sequence.kind == "embed"
            score |= sequence.kind == "score" and span > 0
        plan = _OutputPlan(rows)
        if logits:
            if len(self._logits) < outputs:
                self._logits = np.empty((outputs, self._model.vocab_size), np.float32)
            plan.logits = self._logits[:outputs]
        if argmax:
            plan.argmax = self._argmax[:outputs]
        if hidden:
            if len(self._hidden) < outputs:
                self._hidden = np.empty((outputs, self._model.hidden_size), np.float32)
            plan.hidden = self._hidden[:outputs]
        if score:
            plan.targets, plan.scores = np.zeros(outputs, np.int32), np.empty(outputs, np.float32)
            for sequence, span in zip(step.sequences, rows, strict=True):
                if sequence.kind == "score":
                    begin = max(sequence.computed, sequence.first_row) + 1
                    plan.targets[span] = sequence.tokens[begin : begin + span.stop - span.start]
        return plan

    def _take_logits(
        self, result: StepResult, index: int, sequence: Sequence, count: int, logits: NDArray[np.float32]
    ) -> list[int]:
        """Scores the prompt and draws tokens, as the sequence needs; `logits` are its output rows."""
        if sequence.wants_prompt_rows:
            _score_prompt(sequence, logits)
        if not sequence.draws or sequence.computed + count < sequence.num_tokens:
            return []
        tokens, logprobs = _draw(sequence, logits[len(logits) - 1 - sequence.drafted(count) :], self._masks)
        if logprobs:
            result.logprobs[index] = logprobs
        return tokens


def _drafts(sequence: Sequence, rows: int) -> list[int]:
    """Returns the drafts after the known tokens, the last of which has the first of `rows` output rows."""
    return sequence.tokens[sequence.num_tokens : sequence.num_tokens + rows - 1].tolist()


def _add_hidden(sequence: Sequence, hidden: NDArray[np.float32]) -> None:
    restarted = sequence.computed == 0  # the first chunk, or the first after a preemption
    known = None if restarted else sequence.outputs.hidden_sum
    total: NDArray[np.float64] = np.zeros(int(hidden.shape[1]), np.float64) if known is None else known
    for state in hidden:  # one by one, so that the sum does not depend on the chunks
        np.add(total, state, out=total)
    sequence.outputs.hidden_sum = total


def _keep_scores(sequence: Sequence, scores: NDArray[np.float32]) -> None:
    if sequence.outputs.scores is None:
        sequence.outputs.scores = np.empty(sequence.num_prompt - 1 - sequence.first_row, np.float32)
    begin = max(0, sequence.computed - sequence.first_row)
    sequence.outputs.scores[begin : begin + len(scores)] = scores


def _score_prompt(sequence: Sequence, logits: NDArray[np.float32]) -> None:
    entries = sequence.outputs.prompt_logprobs
    if entries is None:
        return  # already delivered
    top = sequence.params.prompt_logprobs or 0
    for position, row in enumerate(logits, max(sequence.computed, sequence.first_row) + 1):
        if position < sequence.num_prompt:
            token = int(sequence.tokens[position])
            entries[position] = token_logprob(row, log_normalizer(row), token, top)


def _draw(
    sequence: Sequence, logits: NDArray[np.float32], masks: MaskBudget
) -> tuple[list[int], list[TokenLogprob]]:
    """Draws from the row of the last known token, and from the rows of its drafts while they are accepted.

    Drawing ends before a row whose mask is left to another thread.

    Raises:
        DeepwellError: the first row has no finite maximum, or its grammar allows no token. A later row that fails is
            computed again, as the first of its step.
    """
    params, grammar = sequence.params, sequence.grammar
    logprobs: list[TokenLogprob] = []

    def drawn() -> Iterator[int]:
        for length, row in enumerate(logits, sequence.num_tokens):
            try:
                allowed = grammar.allowed(masks) if grammar else None
                if grammar and allowed is None:
                    return
                token = draw(
                    row,
                    params,
                    tokens=sequence.tokens[:length],  # drafts among them were also drawn
                    num_prompt=sequence.num_prompt,
                    masked=sequence.stop_ids,
                    u=uniform(sequence.seed, sequence.choice, length),
                    allowed=allowed,
                )
                if grammar and token not in sequence.stop_ids:
                    grammar.advance(token)  # every drawn token is kept
            except DeepwellError:
                if length == sequence.num_tokens:
                    raise
                return
            if params.logprobs is not None:
                logprobs.append(token_logprob(row, log_normalizer(row), token, params.logprobs))
            yield token

    return accept(_drafts(sequence, len(logits)), drawn(), sequence.stop_ids), logprobs
