"""`Scheduler`: which tokens are computed in the next step. Pure bookkeeping: no model, no clock, no thread.

A sequence has one number, the tokens computed so far, and each step brings it closer to the tokens known.
Chunked prefill, prefix hits, preemption and rejected drafts are all ways of changing that number.
"""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as Tokens
from dataclasses import dataclass, field

from deepwell.engine.core.batch import BLOCK_TOKENS
from deepwell.engine.core.blocks import BlockPool, Prefix
from deepwell.engine.core.fair import FairQueue
from deepwell.engine.core.sequence import Sequence
from deepwell.engine.core.speculation import DraftPolicy, Odds, PromptLookup, RowCost
from deepwell.engine.protocol import FinishReason

__all__ = ["Limits", "ScheduledStep", "Scheduler"]


@dataclass(frozen=True, slots=True)
class Limits:
    """How much one step may hold.

    A short step while somebody decodes keeps the time between tokens even; a long one otherwise fills the
    matrix kernels.
    """

    max_sequences: int = 64
    prefill_tokens: int = 512  # prompt rows of a step when nobody decodes
    mixed_prefill_tokens: int = 128  # the same while somebody does
    logits_rows: int = 64  # prompt rows of a step that want logits: 64 x 151k floats are 39 MB
    prefix_cache: bool = True
    # Whether blocks with generated tokens serve later prompts. Not where what is cached depends on a token's role: latent
    # attention computes a generated token by absorption, and as part of a prompt by expansion.
    share_generated: bool = True
    draft_depth: int = 8  # tokens drafted for one sequence in a step; 0: no speculation
    draft_rows: int = 16  # for all of them
    # Of the drafts, how many the model's multi-token prediction layer may make; 0: it has none. `open_engine` sets it.
    predict_depth: int = 0
    row_cost: RowCost | None = None  # None: what `open_engine` expects of the model


@dataclass(slots=True)
class ScheduledStep:
    """The work of one step: `counts[i]` tokens of `sequences[i]`, from `sequences[i].computed` on."""

    sequences: list[Sequence]
    counts: list[int]
    decoding: int = 0  # leading sequences that compute the token drawn last, and drafts behind it
    drafted: int = 0  # rows of drafts, in steps where all decode
    # Sequences, by position, whose drafts the prediction layer makes when the step is executed: their rows are reserved
    # and hold no tokens yet. How many it makes; 0: one that is only held against what is drawn.
    predicted: dict[int, int] = field(default_factory=dict[int, int])


class Scheduler:
    """Who waits is served as `FairQueue` has it; the lowest priority, of that the youngest, gives way when blocks run out.

    Admission takes the blocks of all known tokens at once, so only decoding can run out. The oldest sequence
    can take the blocks of every other, and one sequence always fits the pool, so somebody advances in each
    step.
    """

    def __init__(self, pool: BlockPool, limits: Limits | None = None) -> None:
        self.pool = pool
        self.limits = limits or Limits()
        self._row_cost = self.limits.row_cost or RowCost()
        self.waiting = FairQueue()
        self.running: list[Sequence] = []  # by priority, highest first, then by admission, oldest first
        self.admitted = 0  # for the first time
        self.preemptions = 0
        self.prompt_tokens = 0  # computed
        self.cached_tokens = 0  # of prompts, spared by prefix hits
        self.drafted_tokens = 0
        self.accepted_tokens = 0
        self.predicted_tokens = 0  # of those drafted
        self.accepted_predictions = 0
        self._generating = 0  # sequences of kind "generate", waiting or running

    @property
    def has_work(self) -> bool:
        """Whether a step would compute anything."""
        return bool(self.running or self.waiting)

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence whose capacity fits the pool."""
        adapter = sequence.adapter
        sequence.root = self.pool.root(sequence.salt, adapter.digest if adapter else b"")
        self.waiting.append(sequence)
        self._generating += sequence.kind == "generate"

    def remove(self, sequence: Sequence) -> bool:
        """Drop a sequence, wherever it stands; its blocks are free at once. False if it is not here."""
        if sequence in self.running:
            self._finish(sequence)
        elif sequence in self.waiting:
            self.waiting.remove(sequence)
            self._generating -= sequence.kind == "generate"
        else:
            return False
        return True

    def schedule(self) -> ScheduledStep:
        """Pick the next step's tokens and give them blocks.

        `commit` follows, or `remove` of all running sequences.
        """
        limits = self.limits
        self._make_way()
        preemptions = self.preemptions
        step = self._schedule_decoding()
        full = len(self.running) >= limits.max_sequences
        if step.decoding == len(self.running) and (full or not self.waiting):
            if limits.draft_depth:
                self._draft(step)
            return step

        budget = limits.mixed_prefill_tokens if step.decoding else limits.prefill_tokens
        # Where nobody wants logits, the rows of score and embed requests cost no more than others.
        row_budget = min(budget, limits.logits_rows) if self._generating else budget
        in_flight: set[bytes] = set()
        for sequence in self.running:
            if not sequence.decoding:
                taken = self._prefill(step, sequence, budget, row_budget, in_flight)
                budget -= taken
                row_budget -= taken if sequence.wants_prompt_rows else 0
        if preemptions != self.preemptions:
            return step
        while self.waiting and budget > 0 and len(self.running) < limits.max_sequences:
            sequence = self.waiting.head()
            if (sequence.wants_prompt_rows and row_budget <= 0) or not self._admit(sequence, in_flight):
                break
            taken = self._prefill(step, sequence, budget, row_budget, in_flight)
            budget -= taken
            row_budget -= taken if sequence.wants_prompt_rows else 0
        return step

    def commit(self, step: ScheduledStep, tokens: Tokens[Tokens[int]]) -> list[FinishReason | None]:
        """Book a computed step. `tokens[i]` is what `sequences[i]` drew, as `accept` gives it.

        Rejected drafts leave `computed` behind: their slots are written again.

        Returns:
            Why each sequence ended, None if it goes on. Those that ended have left the scheduler.
        """
        reasons: list[FinishReason | None] = []
        for index, (sequence, count, drawn) in enumerate(
            zip(step.sequences, step.counts, tokens, strict=True)
        ):
            before = sequence.computed
            computed = before + count
            if drafted := sequence.drafted(count):
                accepted = max(0, len(drawn) - 1)
                computed -= drafted - accepted
                sequence.accepted_tokens += accepted
                self.accepted_tokens += accepted
                if step.predicted.get(index):
                    self.accepted_predictions += accepted
            sequence.computed = computed
            if before < sequence.num_prompt:
                self.prompt_tokens += min(computed, sequence.num_prompt) - before
            reason: FinishReason | None = None
            for token in drawn:
                reason = sequence.append(token)
            if not drawn and computed == sequence.num_tokens and not sequence.draws:
                reason = "stop" if sequence.kind != "generate" else "length"
            if computed >= (sequence.registered + 1) * BLOCK_TOKENS:
                self._register(sequence)
            if reason is not None:
                self._finish(sequence)
            reasons.append(reason)
        return reasons

    def sequences(self) -> Iterator[Sequence]:
        """All that have not ended, running ones first."""
        yield from self.running
        yield from self.waiting

    def check_integrity(self) -> None:
        """Raise if the books do not add up; see `BlockPool.check_integrity`."""
        self.pool.check_integrity([s.blocks for s in self.running])
        for sequence in self.running:
            assert sequence.computed <= len(sequence.blocks) * BLOCK_TOKENS
            assert sequence.computed < sequence.num_tokens
            assert sequence.table[: len(sequence.blocks)].tolist() == sequence.blocks
        assert all(not s.blocks and s.computed == 0 for s in self.waiting)
        assert len(self.running) <= self.limits.max_sequences
        assert self.running == sorted(self.running, key=lambda sequence: -sequence.priority)

    def _schedule_decoding(self) -> ScheduledStep:
        """One row for each decoding sequence, outside the prefill budget: none is ever starved."""
        step = ScheduledStep([], [])
        running = self.running
        position = 0
        while position < len(running):  # preemption shortens the list from its end
            sequence = running[position]
            position += 1
            if sequence.decoding and (
                sequence.num_tokens <= len(sequence.blocks) * BLOCK_TOKENS or self._grow(sequence)
            ):
                step.sequences.append(sequence)
        step.decoding = len(step.sequences)
        step.counts = [1] * step.decoding
        return step

    def _draft(self, step: ScheduledStep) -> None:
        """Add the drafts that pay to a step of decoding sequences. Nobody is preempted for a draft."""
        limits, pool = self.limits, self.pool
        policy = DraftPolicy(step.decoding, self._row_cost)
        spare = pool.available - step.decoding  # everybody can still take a block
        for index, sequence in enumerate(step.sequences):
            drafter = sequence.drafter
            known = sequence.num_tokens
            if drafter is None:
                drafter = sequence.drafter = PromptLookup(sequence.tokens[:known])
            elif drafter.num_tokens < known:
                drafter.observe(sequence.tokens[drafter.num_tokens : known].tolist())
            most = min(
                limits.draft_depth,
                limits.draft_rows - step.drafted,
                sequence.max_tokens - sequence.num_generated - 1,  # the step draws one token more
            )
            draft = drafter.propose(most)
            count = self._predict(step, index, policy, most, draft.chances) or policy.take(draft.chances)
            if not count:
                continue
            room = len(sequence.blocks) * BLOCK_TOKENS - known
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
                sequence.tokens[known : known + count] = draft.tokens[:count]
            step.counts[index] += count
            step.drafted += count
        self.drafted_tokens += step.drafted

    def _predict(
        self, step: ScheduledStep, index: int, policy: DraftPolicy, most: int, others: Tokens[float]
    ) -> int:
        """How many rows to leave to the prediction layer, if it promises more than the `others`.

        None too where the step only probes it.
        """
        most = min(most, self.limits.predict_depth)
        if most <= 0:
            return 0
        sequence, cost = step.sequences[index], self._row_cost
        if sequence.odds is None:
            sequence.odds = Odds()
        odds = sequence.odds
        # Sequences share a pass of the layer as they share a step.
        price = cost.predict * (cost.further if step.predicted else 1.0)
        chances = odds.chances(most)
        count = policy.take(chances, price) if sum(chances) > sum(others) else 0
        if count:
            odds.drafted()
            step.predicted[index] = count
        elif policy.pays(1.0, price) and odds.probe():
            step.predicted[index] = 0
        return count

    def _grow(self, sequence: Sequence) -> bool:
        """One more block, at the expense of the youngest; False if that is `sequence` itself."""
        while (block := self.pool.take(1)) is None:
            if self._preempt_youngest() is sequence:
                return False
        sequence.assign(block)
        return True

    def _prefill(
        self, step: ScheduledStep, sequence: Sequence, budget: int, row_budget: int, in_flight: set[bytes]
    ) -> int:
        """Add what the budgets allow to the step; the blocks that it completes are noted `in_flight`."""
        if sequence.wants_prompt_rows:
            budget = min(budget, row_budget)
        count = min(sequence.num_tokens - sequence.computed, budget)
        if count <= 0:
            return 0
        step.sequences.append(sequence)
        step.counts.append(count)
        first, end = sequence.computed // BLOCK_TOKENS, (sequence.computed + count) // BLOCK_TOKENS
        if self.limits.prefix_cache:
            end = self._shareable(sequence, end)
            in_flight.update(prefix.hash for prefix in self._chain(sequence, end)[first:end])
        return count

    def _admit(self, sequence: Sequence, in_flight: set[bytes]) -> bool:
        """Let the head of the queue run, with blocks for all its known tokens and the next one."""
        pool = self.pool
        hits: list[int] = []
        if self.limits.prefix_cache and not sequence.wants_prompt_rows:
            # The last token is always computed: its row yields the next one.
            blocks = self._shareable(sequence, (sequence.num_tokens - 1) // BLOCK_TOKENS)
            chain = self._chain(sequence, blocks)
            hits = pool.match(chain)
            if len(hits) < len(chain) and chain[len(hits)].hash in in_flight:
                return False  # computing it twice costs more than waiting one step for it
        pool.acquire(hits)
        room = min(sequence.num_tokens + 1, len(sequence.tokens))
        blocks = pool.take(-(-room // BLOCK_TOKENS) - len(hits))
        if blocks is None:
            pool.release(hits)
            return False
        self.waiting.pop()
        place = len(self.running)
        while place and self.running[place - 1].priority < sequence.priority:
            place -= 1
        self.running.insert(place, sequence)
        sequence.assign(hits + blocks)
        sequence.computed = len(hits) * BLOCK_TOKENS
        sequence.registered = len(hits)
        if not sequence.preemptions:
            self.admitted += 1
            sequence.cached_tokens = sequence.computed
            self.cached_tokens += sequence.computed
        return True

    def _make_way(self) -> None:
        """Let running sequences of a lower priority wait where one of a higher finds no place, if that helps it."""
        running, pool = self.running, self.pool
        if not self.waiting or not running:
            return
        head = self.waiting.head()
        if running[-1].priority >= head.priority:
            return
        needed = -(-min(head.num_tokens + 1, len(head.tokens)) // BLOCK_TOKENS)
        held = sum(len(one.blocks) for one in running if one.priority < head.priority)
        if pool.available + held < needed:
            return
        while (
            running
            and running[-1].priority < head.priority
            and (len(running) >= self.limits.max_sequences or pool.available < needed)
        ):
            self._preempt_youngest()

    def _preempt_youngest(self) -> Sequence:
        victim = self.running.pop()
        self._vacate(victim)
        victim.computed = 0
        victim.preemptions += 1
        self.preemptions += 1
        self.waiting.put_back(victim)
        return victim

    def _finish(self, sequence: Sequence) -> None:
        self.running.remove(sequence)
        self._vacate(sequence)
        self._generating -= sequence.kind == "generate"

    def _vacate(self, sequence: Sequence) -> None:
        self.pool.release(sequence.blocks)
        sequence.blocks = []

    def _shareable(self, sequence: Sequence, blocks: int) -> int:
        """How many of the first `blocks` full blocks may be offered to, or taken from, the prefix cache."""
        return blocks if self.limits.share_generated else min(blocks, sequence.num_prompt // BLOCK_TOKENS)

    def _chain(self, sequence: Sequence, blocks: int) -> list[Prefix]:
        """The prefix nodes of the first `blocks` full blocks."""
        chain = sequence.chain
        while len(chain) < blocks:
            start = len(chain) * BLOCK_TOKENS
            parent = chain[-1] if chain else sequence.root
            assert parent is not None
            chain.append(self.pool.extend(parent, sequence.tokens[start : start + BLOCK_TOKENS].tobytes()))
        return chain[:blocks]

    def _register(self, sequence: Sequence) -> None:
        full = sequence.computed // BLOCK_TOKENS
        if self.limits.prefix_cache:
            shareable = self._shareable(sequence, full)
            chain = self._chain(sequence, shareable)
            for index in range(sequence.registered, shareable):
                self.pool.register(sequence.blocks[index], chain[index])
        sequence.registered = full
