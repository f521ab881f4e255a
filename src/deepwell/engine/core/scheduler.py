"""`Scheduler`: chooses the tokens of the next step. It is pure bookkeeping without a model, a clock or a thread.

A sequence has one number, its computed tokens, and each step brings it closer to the number of known tokens. Chunked
prefill, prefix hits, preemption and rejected drafts all change that number.
"""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as Tokens

from deepwell.engine.batch import BLOCK_TOKENS
from deepwell.engine.core.blocks import BlockPool, Prefix
from deepwell.engine.core.drafting import DraftPlanner
from deepwell.engine.core.fair import FairQueue
from deepwell.engine.core.sequence import Sequence
from deepwell.engine.core.step import Move, ScheduledStep
from deepwell.engine.limits import Limits
from deepwell.engine.protocol import FinishReason
from deepwell.engine.recents import RecentSlots
from deepwell.errors import DeepwellError

__all__ = ["Scheduler"]


class Scheduler:
    """Schedules waiting sequences in `FairQueue` order, and preempts when blocks run out.

    The youngest sequence of the lowest rank is preempted first: of the lowest priority, and in it slow masks before others.
    Admission takes the blocks of all known tokens at once, so only decoding can run out of blocks. The oldest sequence of the
    highest rank can take the blocks of every other, and one sequence always fits the pool, so each step makes progress.
    """

    def __init__(
        self, pool: BlockPool, limits: Limits | None = None, recents: RecentSlots | None = None
    ) -> None:
        self.pool = pool
        self._recents = recents
        self.limits = limits or Limits()
        self._planner = DraftPlanner(pool, self.limits)
        self.waiting = FairQueue()
        self.running: list[Sequence] = []  # by rank, highest first, then by admission, oldest first
        self.admitted = 0  # sequences admitted for the first time
        self.preemptions = 0
        self.prompt_tokens = 0  # computed prompt tokens
        self.cached_tokens = 0  # prompt tokens from prefix hits
        self.accepted_tokens = 0
        self.accepted_predictions = 0
        self.forgotten_tokens = 0
        self._generating = 0  # sequences of kind "generate", waiting or running

    @property
    def drafted_tokens(self) -> int:
        """Number of draft rows that were scheduled."""
        return self._planner.drafted_tokens

    @property
    def predicted_tokens(self) -> int:
        """Number of draft rows that were left to the prediction layer."""
        return self._planner.predicted_tokens

    @property
    def has_work(self) -> bool:
        """True if a step would compute anything."""
        return bool(self.running or self.waiting)

    def add(self, sequence: Sequence) -> None:
        """Queues a sequence, whose capacity must fit the pool."""
        adapter = sequence.adapter
        sequence.root = self.pool.root(sequence.salt, adapter.digest if adapter else b"")
        self.waiting.append(sequence)
        self._generating += sequence.kind == "generate"

    def remove(self, sequence: Sequence) -> bool:
        """Removes a sequence in any state and frees its blocks at once. Returns False if it is unknown."""
        if sequence in self.running:
            self._finish(sequence)
        elif sequence in self.waiting:
            self.waiting.remove(sequence)
            self._generating -= sequence.kind == "generate"
        else:
            return False
        return True

    def schedule(self, *, others_wait: bool = False) -> ScheduledStep:
        """Picks the tokens of the next step and gives them blocks. The step is empty if every sequence waits for its mask.

        If other models wait for the cores, a step takes no more of a prompt than beside sequences that decode. The caller then
        calls `commit`, or `remove` for all running sequences.
        """
        step = self._schedule(others_wait)
        if self._recents is not None:
            for sequence, count in zip(step.sequences, step.counts, strict=True):
                first, last = sequence.computed, sequence.computed + count - 1
                self._hold_recent_blocks(sequence, self._recents.first(first), last // BLOCK_TOKENS + 1)
        return step

    def _schedule(self, others_wait: bool) -> ScheduledStep:
        limits = self.limits
        self._rank_running()
        self._preempt_lower_ranks()
        preemptions = self.preemptions
        step = self._schedule_decoding()
        full = len(self.running) >= limits.max_sequences
        if step.decoding + step.waiting == len(self.running) and (full or not self.waiting):
            if limits.draft_depth and step.decoding:
                self._planner.add_drafts(step)
            return step

        budget = limits.mixed_prefill_tokens if step.decoding or others_wait else limits.prefill_tokens
        # If no sequence generates, the rows of score and embed requests cost no more than others.
        row_budget = min(budget, limits.logits_rows) if self._generating else budget
        in_flight: set[bytes] = set()
        for sequence in self.running:
            if not sequence.decoding:
                taken = self._prefill(step, sequence, budget, row_budget, in_flight)
                budget -= taken
                row_budget -= sequence.scored(taken)
        if preemptions != self.preemptions:
            return step
        while self.waiting and budget > 0 and len(self.running) < limits.max_sequences:
            sequence = self.waiting.head()
            if (sequence.wants_prompt_rows and row_budget <= 0) or not self._admit(sequence, in_flight):
                break
            taken = self._prefill(step, sequence, budget, row_budget, in_flight)
            budget -= taken
            row_budget -= sequence.scored(taken)
        return step

    def commit(self, step: ScheduledStep, tokens: Tokens[Tokens[int]]) -> list[FinishReason | None]:
        """Records a computed step. `tokens[i]` are the tokens that `sequences[i]` drew, as returned by `accept`.

        Rejected drafts do not count as computed; their slots are written again.

        Returns:
            The reason why each sequence ended, or None if it goes on. Ended sequences have left the scheduler.
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
                sequence.drafts.accepted_tokens += accepted
                self.accepted_tokens += accepted
                if step.predicted.get(index):
                    self.accepted_predictions += accepted
            sequence.computed = computed
            if before < sequence.num_prompt:
                self.prompt_tokens += min(computed, sequence.num_prompt) - before
            reason: FinishReason | None = None
            for token in drawn:
                reason = sequence.append(token)
            if not drawn and computed == sequence.num_tokens:
                if sequence.draws:  # its mask was not ready: the row is computed again when it is
                    sequence.computed = computed = computed - 1
                else:
                    reason = "stop" if sequence.kind != "generate" else "length"
            if computed >= (sequence.registered + 1) * BLOCK_TOKENS:
                self._register(sequence)
            if self._recents is not None:
                # It may wait from here on, and holds no more than its next row reads.
                self._hold_recent_blocks(sequence, self._recents.first(computed), sequence.near.stop)
            if reason is not None:
                self._finish(sequence)
            reasons.append(reason)
        return reasons

    def sequences(self) -> Iterator[Sequence]:
        """Yields all sequences that have not ended, running ones first."""
        yield from self.running
        yield from self.waiting

    def check_integrity(self) -> None:
        """Raises if the state is inconsistent; see `BlockPool.check_integrity`."""
        self.pool.check_integrity([s.blocks for s in self.running])
        if self._recents is not None:
            self._recents.check_integrity([s.blocks[s.near.start : s.near.stop] for s in self.running])
        for sequence in self.running:
            assert sequence.computed - sequence.forgotten <= len(sequence.blocks) * BLOCK_TOKENS
            assert sequence.computed < sequence.num_tokens
            if window := sequence.window:
                assert sequence.forgotten in map(window.forgotten, (sequence.computed - 1, sequence.computed))
                assert len(sequence.blocks) <= window.tokens // BLOCK_TOKENS
                moved = sequence.blocks[window.sinks // BLOCK_TOKENS :] if sequence.forgotten else []
                assert all(map(self.pool.private, moved))
            assert sequence.table[: len(sequence.blocks)].tolist() == sequence.blocks
        assert all(not s.blocks and s.computed == 0 for s in self.waiting)
        assert len(self.running) <= self.limits.max_sequences
        assert self.running == sorted(self.running, key=lambda sequence: -sequence.rank)

    def _schedule_decoding(self) -> ScheduledStep:
        """Schedules one row for each decoding sequence. These do not count in the prefill budget, so none is starved."""
        step = ScheduledStep([], [])
        running = self.running
        position = 0
        while position < len(running):  # preemption shortens the list from its end
            sequence = running[position]
            position += 1
            if not sequence.mask_ready:
                step.waiting += 1
            elif sequence.computed == sequence.slides_at and not self._slide(step, sequence):
                continue
            elif sequence.decoding and (
                sequence.num_tokens - sequence.forgotten <= len(sequence.blocks) * BLOCK_TOKENS
                or self._grow(sequence)
            ):
                step.sequences.append(sequence)
        step.decoding = len(step.sequences)
        step.counts = [1] * step.decoding
        return step

    def _grow(self, sequence: Sequence) -> bool:
        """Gives a sequence one more block, preempting the youngest if needed; False if that is `sequence` itself."""
        while (block := self.pool.take(1)) is None:
            if self._preempt_youngest() is sequence:
                return False
        sequence.assign(block)
        return True

    def _slide(self, step: ScheduledStep, sequence: Sequence) -> bool:
        """Makes room in a full window, preempting the youngest if needed; False if that is `sequence` itself.

        The blocks of forgotten tokens are the sequence's next ones, so it holds equally many for ever.
        """
        window = sequence.window
        assert window is not None
        sinks, stride = window.sinks // BLOCK_TOKENS, window.stride // BLOCK_TOKENS
        recent = sequence.blocks[sinks:]
        while (claimed := self.pool.claim(recent)) is None:
            if self._preempt_youngest() is sequence:
                return False
        gone = recent[:stride], sequence.memory
        step.moves.append(Move(recent[stride:], claimed[stride:], window.stride, *gone))
        sequence.slide([*sequence.blocks[:sinks], *claimed[stride:], *claimed[:stride]])
        self.forgotten_tokens += window.stride
        return True

    def _prefill(
        self, step: ScheduledStep, sequence: Sequence, budget: int, row_budget: int, in_flight: set[bytes]
    ) -> int:
        """Adds as many rows to the step as the budgets allow. The blocks that they complete are added to `in_flight`."""
        if sequence.wants_prompt_rows:
            budget = min(budget, row_budget + max(0, sequence.first_row - sequence.computed))
        count = min(min(sequence.num_tokens, sequence.slides_at) - sequence.computed, budget)
        if count <= 0 or not sequence.mask_ready:
            return 0
        step.sequences.append(sequence)
        step.counts.append(count)
        first, end = sequence.computed // BLOCK_TOKENS, (sequence.computed + count) // BLOCK_TOKENS
        if self.limits.prefix_cache:
            end = self._shareable(sequence, end)
            in_flight.update(prefix.hash for prefix in self._chain(sequence, end)[first:end])
        return count

    def _admit(self, sequence: Sequence, in_flight: set[bytes]) -> bool:
        """Admits the head of the queue, with blocks for all its known tokens and the next one; False if it must wait."""
        pool = self.pool
        hits: list[int] = []
        if self.limits.prefix_cache:
            # The last token is always computed, because its row yields the next one; so are rows whose output is wanted.
            reusable = sequence.first_row if sequence.wants_prompt_rows else sequence.num_tokens - 1
            reusable = min(reusable, sequence.slides_at - 1)
            blocks = self._shareable(sequence, reusable // BLOCK_TOKENS)
            chain = self._chain(sequence, blocks)
            hits = pool.match(chain)
            if self._recents is not None:
                hits = hits[: self._recents.reusable(hits)]
            if len(hits) < len(chain) and chain[len(hits)].hash in in_flight:
                return False  # waiting one step for the block costs less than computing it twice
        pool.acquire(hits)
        blocks = pool.take(_blocks_of(sequence) - len(hits))
        if blocks is None:
            pool.release(hits)
            return False
        self.waiting.pop()
        place = len(self.running)
        while place and self.running[place - 1].rank < sequence.rank:
            place -= 1
        self.running.insert(place, sequence)
        sequence.assign(hits + blocks)
        sequence.computed = len(hits) * BLOCK_TOKENS
        sequence.registered = len(hits)
        if self._recents is not None:
            self._hold_recent_blocks(sequence, self._recents.first(sequence.computed), len(hits))
        if not sequence.preemptions:
            self.admitted += 1
            sequence.cached_tokens = sequence.computed
            self.cached_tokens += sequence.computed
        return True

    def _rank_running(self) -> None:
        """Moves sequences whose masks became slow behind the others of their priority, or back."""
        changed = [s for s in self.running if s.grammar is not None and s.slow != s.grammar.slow]
        for sequence in changed:
            sequence.slow = not sequence.slow
        if changed:
            self.running.sort(key=lambda sequence: -sequence.rank)

    def _preempt_lower_ranks(self) -> None:
        """Preempts running sequences of lower rank if the head of the queue has no room and this makes enough."""
        running, pool = self.running, self.pool
        if not self.waiting or not running:
            return
        head = self.waiting.head()
        if running[-1].rank >= head.rank:
            return
        needed = _blocks_of(head)
        held = sum(len(one.blocks) for one in running if one.rank < head.rank)
        if pool.available + held < needed:
            return
        while (
            running
            and running[-1].rank < head.rank
            and (len(running) >= self.limits.max_sequences or pool.available < needed)
        ):
            self._preempt_youngest()

    def _preempt_youngest(self) -> Sequence:
        victim = self.running.pop()
        self._vacate(victim)
        victim.restart()
        victim.preemptions += 1
        self.preemptions += 1
        self.waiting.put_back(victim)
        return victim

    def _finish(self, sequence: Sequence) -> None:
        self.running.remove(sequence)
        self._vacate(sequence)
        self._generating -= sequence.kind == "generate"

    def _hold_recent_blocks(self, sequence: Sequence, first: int, end: int) -> None:
        """Holds the slots of blocks [first, end) of a sequence, and of no others."""
        recents, near = self._recents, sequence.near
        assert recents is not None
        first = max(first, near.start)
        recents.release(sequence.blocks[near.start : min(first, near.stop)])
        near = sequence.near = range(first, max(first, near.stop))
        if not recents.hold(sequence.blocks[near.stop : end]):
            # Always a bug: see `plan.recent_slots`.
            raise DeepwellError("a step needs more slots than there are")
        sequence.near = range(first, max(end, near.stop))

    def _vacate(self, sequence: Sequence) -> None:
        if self._recents is not None:
            self._recents.release(sequence.blocks[sequence.near.start : sequence.near.stop])
            sequence.near = range(0)
        self.pool.release(sequence.blocks)
        sequence.blocks = []

    def _shareable(self, sequence: Sequence, blocks: int) -> int:
        """Returns how many of the first `blocks` full blocks may be shared through the prefix cache."""
        blocks = min(blocks, len(sequence.table))  # a window's blocks have other contents after it has slid
        return blocks if self.limits.share_generated else min(blocks, sequence.num_prompt // BLOCK_TOKENS)

    def _chain(self, sequence: Sequence, blocks: int) -> list[Prefix]:
        """Returns the prefix nodes of the first `blocks` full blocks."""
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


def _blocks_of(sequence: Sequence) -> int:
    """Returns the number of blocks for all known tokens and the next one, or for a full window."""
    return min(-(-(sequence.num_tokens + 1) // BLOCK_TOKENS), len(sequence.table))
