"""A simulated replica takes the steps of the engine's own scheduler, at the same times."""

from __future__ import annotations

from collections.abc import Sequence as Tokens

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepwell.engine.batch import BLOCK_TOKENS
from deepwell.engine.core.blocks import BlockPool
from deepwell.engine.core.scheduler import Scheduler
from deepwell.engine.core.sequence import Sequence, SequenceSpec
from deepwell.engine.limits import Limits
from deepwell.engine.protocol import SamplingParams
from deepwell.fleet.simulate.loads import Row, TraceLoad
from deepwell.fleet.simulate.prefixes import in_blocks
from deepwell.fleet.simulate.profile import Profile
from deepwell.fleet.simulate.requests import Request
from deepwell.fleet.simulate.simulation import Fleet, Simulation

PROFILE = Profile(
    "tests",
    decode=((1, 0.010), (4, 0.013), (16, 0.031)),
    prefill_s_per_token=0.0005,
    prefill_s=0.006,
    context_s_per_token=2e-6,
    max_batch=5,
    kv_tokens=1 << 16,
    prefill_tokens=96,
    mixed_prefill_tokens=32,
)


class Recorded(Simulation):
    """A simulation that keeps its requests."""

    def __init__(self, profile: Profile, rows: Tokens[Row], shared: int = 0) -> None:
        super().__init__(Fleet(profile, 1), TraceLoad(rows, shared), 0, 0.0)
        self.requests: list[Request] = []

    def _leave(self, request: Request, now: float) -> None:
        self.requests.append(request)
        super()._leave(request, now)


def simulated(profile: Profile, rows: Tokens[Row]) -> list[tuple[float, float]]:
    """Times of the first and the last token, by request."""
    simulation = Recorded(profile, rows)
    simulation.run()
    return [(one.first, one.ended) for one in sorted(simulation.requests, key=lambda one: one.number)]


def scheduled(profile: Profile, rows: Tokens[Row]) -> list[tuple[float, float]]:
    """The same by the engine's scheduler, one step after the other, with a clock that the profile moves."""
    limits = Limits(
        max_sequences=profile.max_batch,
        prefill_tokens=profile.prefill_tokens,
        mixed_prefill_tokens=profile.mixed_prefill_tokens,
        prefix_cache=False,
        draft_depth=0,
    )
    scheduler = Scheduler(BlockPool(profile.kv_tokens // BLOCK_TOKENS), limits)
    table = profile.step_table()
    first, last = [0.0] * len(rows), [0.0] * len(rows)
    held: dict[str, int] = {}  # tokens in the cache, as the simulator counts them
    now, arrived = 0.0, 0
    while arrived < len(rows) or scheduler.has_work:
        if not scheduler.has_work:
            now = max(now, rows[arrived].at_s)
        while arrived < len(rows) and rows[arrived].at_s <= now:
            row = rows[arrived]
            prompt = np.arange(row.prompt_tokens, dtype=np.int32)
            params = SamplingParams(max_tokens=row.answer_tokens, temperature=0, ignore_eos=True)
            scheduler.add(Sequence(SequenceSpec(str(arrived), prompt, params)))
            arrived += 1
        step = scheduler.schedule()
        for one in scheduler.running:
            held.setdefault(one.request_id, in_blocks(one.num_prompt + 1))
        context = sum(held[one.request_id] for one in scheduler.running)
        tokens = sum(step.counts[step.decoding :])
        now += table[step.decoding] + profile.prefill_s_per_token * tokens
        now += profile.context_s_per_token * context
        drawing = [
            one.computed + n == one.num_tokens for one, n in zip(step.sequences, step.counts, strict=True)
        ]
        for sequence, draws in zip(step.sequences, drawing, strict=True):
            number = int(sequence.request_id)
            if draws and sequence.num_tokens == sequence.num_prompt:
                first[number] = now
            last[number] = now if draws else last[number]
        for sequence in step.sequences[: step.decoding]:
            held[sequence.request_id] += 1
        scheduler.commit(step, [(7,) if draws else () for draws in drawing])
        scheduler.check_integrity()
    return list(zip(first, last, strict=True))


def rows_of(gaps: Tokens[float], prompts: Tokens[int], answers: Tokens[int]) -> list[Row]:
    # Irrational offsets, so that nothing arrives at the very moment at which a step ends.
    times = np.cumsum(gaps) + np.sqrt(np.arange(2, len(gaps) + 2)) * 1e-4
    ordered = sorted(times.tolist())
    return [Row(*one) for one in zip(ordered, prompts, answers, strict=True)]


traces = st.integers(1, 30).flatmap(
    lambda count: st.builds(
        rows_of,
        st.lists(st.floats(0, 0.2), min_size=count, max_size=count),
        st.lists(st.integers(1, 300), min_size=count, max_size=count),
        st.lists(st.integers(1, 40), min_size=count, max_size=count),
    )
)


@settings(max_examples=40, deadline=None)
@given(traces)
def test_a_replica_keeps_the_times_of_the_engines_scheduler(rows: list[Row]) -> None:
    assert np.array(simulated(PROFILE, rows)) == pytest.approx(np.array(scheduled(PROFILE, rows)), abs=1e-6)
