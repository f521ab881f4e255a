"""`DraftPlanner`: chooses the drafts of a step of decoding sequences."""

from __future__ import annotations

from collections.abc import Sequence as Tokens

from deepwell.engine.batch import BLOCK_TOKENS
from deepwell.engine.core.blocks import BlockPool
from deepwell.engine.core.speculation import DraftPolicy, Odds, PromptLookup
from deepwell.engine.core.step import ScheduledStep
from deepwell.engine.limits import Limits, RowCost

__all__ = ["DraftPlanner"]


class DraftPlanner:
    """Adds drafts to steps if their rows pay; see `speculation`."""

    def __init__(self, pool: BlockPool, limits: Limits) -> None:
        self._pool = pool
        self._limits = limits
        self._row_cost = limits.row_cost or RowCost()
        self.drafted_tokens = 0
        self.predicted_tokens = 0  # drafted tokens that the prediction layer makes

    def add_drafts(self, step: ScheduledStep) -> None:
        """Adds the drafts that pay to a step of decoding sequences. No sequence is preempted for a draft."""
        limits, pool = self._limits, self._pool
        policy = DraftPolicy(step.decoding, self._row_cost)
        spare = pool.available - step.decoding  # leaves every sequence a block to take
        for index, sequence in enumerate(step.sequences):
            if sequence.slow:  # the masks of its drafts would not be ready
                continue
            drafter = sequence.drafts.drafter
            text = sequence.tokens[sequence.forgotten : sequence.num_tokens]
            if drafter is None:
                drafter = sequence.drafts.drafter = PromptLookup(text)
            elif drafter.num_tokens < len(text):
                drafter.observe(text[drafter.num_tokens :].tolist())
            most = min(
                limits.draft_depth,
                limits.draft_rows - step.drafted,
                sequence.max_tokens - sequence.num_generated - 1,  # the step draws one token itself
                sequence.slides_at - sequence.num_tokens,
            )
            draft = drafter.propose(most)
            count = self._predict(step, index, policy, most, draft.chances) or policy.take(draft.chances)
            if not count:
                continue
            room = len(sequence.blocks) * BLOCK_TOKENS - len(text)
            if count > room and spare > 0:
                block = pool.take(1)
                assert block is not None
                sequence.assign(block)
                spare -= 1
                room += BLOCK_TOKENS
            count = min(count, room)
            if step.predicted.get(index):
                step.predicted[index] = count
                self.predicted_tokens += count
            else:
                known = sequence.num_tokens
                sequence.tokens[known : known + count] = draft.tokens[:count]
            step.counts[index] += count
            step.drafted += count
        self.drafted_tokens += step.drafted

    def _predict(
        self, step: ScheduledStep, index: int, policy: DraftPolicy, most: int, others: Tokens[float]
    ) -> int:
        """Returns the number of rows to leave to the prediction layer, 0 unless it promises more than the `others`.

        It is also 0 if the step only probes the layer.
        """
        most = min(most, self._limits.predict_depth)
        if most <= 0:
            return 0
        sequence, cost = step.sequences[index], self._row_cost
        if sequence.drafts.odds is None:
            sequence.drafts.odds = Odds()
        odds = sequence.drafts.odds
        # Sequences share a pass of the layer as they share a step, so further ones cost less.
        price = cost.predict * (cost.further if step.predicted else 1.0)
        chances = odds.chances(most)
        count = policy.take(chances, price) if sum(chances) > sum(others) else 0
        if count:
            odds.drafted()
            step.predicted[index] = count
        elif policy.pays(1.0, price) and odds.probe():
            step.predicted[index] = 0
        return count
