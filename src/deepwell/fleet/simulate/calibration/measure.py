"""Measures a replica: its prefill, its steps by batch size, its limits."""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from deepwell.errors import InvalidRequest
from deepwell.fleet.simulate.calibration.targets import Target, TargetLimits, Timed
from deepwell.fleet.simulate.profile import Profile

__all__ = ["BATCHES", "Effort", "calibrate", "side_by_side", "slope_and_start"]

BATCHES: Final = (1, 2, 4, 8, 16, 32, 64)
_PROMPTS: Final = (16, 64, 128, 256, 512, 1024)
_BESIDE: Final = 4  # sequences that decode while a long prompt comes
_WAVES, _WAVE_TOKENS = 6, 8  # answers that wait for a slot, and their tokens
_ANY: Final = 1 << 40
_BLOCK: Final = 16  # tokens of a block of the KV cache
_CONTEXT: Final = 8192  # where the target does not say

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Effort:
    """The work of a calibration.

    Attributes:
        repeats: measurements of each figure; their median counts.
        most_batch: largest number of sequences side by side.
        longest_prompt: tokens of the longest prompt.
        answer_tokens: tokens of each answer of a batch.
        prompt_tokens: tokens of the prompts of a batch.
    """

    repeats: int = 3
    most_batch: int = 64
    longest_prompt: int = 1024
    answer_tokens: int = 48
    prompt_tokens: int = 32


async def calibrate(target: Target, effort: Effort, say: Say) -> Profile:
    """Measures a target that has nothing else to do. `say` is told of each figure.

    Raises:
        InvalidRequest: the target cannot be measured.
    """
    limits = await target.limits()
    context = limits.context or _CONTEXT
    longest = min(effort.longest_prompt, context // 2)
    for _ in range(2):  # pages touched, code paths warm
        await target.stream(min(32, longest), 8)
    prefill_s, start_s = await _prefill(target, effort, longest)
    say(
        f"prefill: {1e3 * prefill_s:.3f} ms a token, first token of an empty prompt after {1e3 * start_s:.1f} ms"
    )
    prompt = min(effort.prompt_tokens, longest)
    counts = _counts(effort.most_batch, limits.kv_tokens, prompt + effort.answer_tokens)
    if counts[-1] < _counts(effort.most_batch, None, 1)[-1]:
        say(
            f"{counts[-1]} answers of {prompt + effort.answer_tokens} tokens fill the KV cache of {limits.kv_tokens} tokens: "
            "the server needs a larger --kv-tokens for more"
        )
    points, most = await _decode(target, effort, counts, prompt, say)
    if min(seconds for _, seconds in points) <= 0:
        raise InvalidRequest(
            "the tokens of an answer came all at once",
            fix="measure past proxies that buffer, or longer answers: --answer-tokens 200",
        )
    beside = min(_BESIDE, most)
    lost_s = await _lost(target, effort, longest, beside, points)
    # In slots, one request does not delay another.
    kind = "steps" if most == 1 or lost_s > 0.3 * longest * prefill_s > 0.06 * start_s else "slots"
    say(f"a prompt of {longest} tokens delays others by {1e3 * lost_s:.1f} ms: {kind}")
    # The rest of the time to a first token is outside of the engine, where requests do not wait for each other.
    first_s = min(
        start_s, points[0][1] if kind == "steps" else await _turn(target, effort, most, points[-1][1])
    )
    long = min(longest // 2, (limits.kv_tokens or _ANY) // beside - effort.answer_tokens - 2 * _BLOCK)
    context_s = await _context(target, effort, max(64, long), beside) if kind == "steps" else 0.0
    return Profile(
        name=limits.name,
        kind=kind,
        decode=_without_context(points, context_s, prompt + effort.answer_tokens / 2),
        prefill_s_per_token=prefill_s,
        prefill_s=first_s,
        mixed_prefill_s_per_token=max(0.0, lost_s / longest) if kind == "steps" and most > 1 else prefill_s,
        context_s_per_token=context_s,
        overhead_s=start_s - first_s,
        max_batch=most,
        context=context,
        kv_tokens=max(context, limits.kv_tokens or context),
        measured=_facts(limits, effort),
    )


def _facts(limits: TargetLimits, effort: Effort) -> dict[str, str | float | int]:
    assumed = [name for name in ("context", "kv_tokens") if getattr(limits, name) is None]
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "repeats": effort.repeats,
        "longest_prompt": effort.longest_prompt,
        "assumed": ", ".join(assumed) or "nothing",
    }


async def _prefill(target: Target, effort: Effort, longest: int) -> tuple[float, float]:
    """Returns the seconds of a prompt token, and of the first token of an empty prompt, with nothing beside it."""
    lengths = sorted({min(length, longest) for length in (*_PROMPTS, longest)})
    found: list[tuple[float, float]] = []
    for length in lengths:
        runs = [await target.stream(length, 1) for _ in range(effort.repeats)]
        for run in runs:
            if run.cached_tokens > 16:
                raise InvalidRequest(
                    f"the prefix cache had {run.cached_tokens} tokens of a new prompt",
                    fix="measure a server whose prompts begin with no text of its own",
                )
        found.append((statistics.median(run.prompt_tokens for run in runs), _median_first(runs)))
    slope, start = slope_and_start(found)
    return max(0.0, slope), max(1e-6, start)


def _median_first(runs: Sequence[Timed]) -> float:
    return statistics.median(run.first_s for run in runs)


def slope_and_start(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Returns the line through points whose relative errors are equal: slope, and value at 0 (weighted least squares)."""
    weights = [1 / (y * y) for _, y in points]
    whole = sum(weights)
    mean_x = sum(w * x for w, (x, _) in zip(weights, points, strict=True)) / whole
    mean_y = sum(w * y for w, (_, y) in zip(weights, points, strict=True)) / whole
    spread = sum(w * (x - mean_x) ** 2 for w, (x, _) in zip(weights, points, strict=True))
    if spread == 0:
        return 0.0, mean_y
    slope = sum(w * (x - mean_x) * (y - mean_y) for w, (x, y) in zip(weights, points, strict=True)) / spread
    return slope, mean_y - slope * mean_x


async def side_by_side(target: Target, count: int, prompt: int, answer: int) -> list[Timed]:
    """Streams several answers at once."""
    return await asyncio.gather(*(target.stream(prompt, answer) for _ in range(count)))


def _counts(most: int, kv_tokens: int | None, tokens: int) -> tuple[int, ...]:
    """Returns the numbers of sequences to measure, so many that all fit the KV cache with their tokens.

    With more, some would wait or be preempted, and the time of a step would hold more than a step.
    """
    counts = tuple(one for one in BATCHES if one <= most)
    if kv_tokens is None:
        return counts
    block = _BLOCK * (2 + (tokens - 1) // _BLOCK)  # one block more for what the scheduler asks for ahead
    fits = max(1, kv_tokens // block)
    return counts if fits >= counts[-1] else (*(one for one in counts if one < fits), fits)


async def _decode(
    target: Target, effort: Effort, counts: Sequence[int], prompt: int, say: Say
) -> tuple[list[tuple[int, float]], int]:
    """Returns the seconds of a step by the number of sequences, and how many run side by side."""
    points: list[tuple[int, float]] = []
    for count in counts:
        answer = effort.answer_tokens
        runs = [await side_by_side(target, count, prompt, answer) for _ in range(effort.repeats)]
        together = min(_most_together(run) for run in runs)
        if count > 1 and together < 0.75 * count:  # further ones waited
            most = max(together, points[-1][0])
            if most > points[-1][0]:
                points.append((most, statistics.median(map(_alone_s, runs))))
            say(f"{most} answers run side by side")
            return points, most
        points.append((count, statistics.median(map(_step_s, runs))))
        say(f"{count} side by side: {1e3 * points[-1][1]:.2f} ms a token")
    return points, points[-1][0]


def _most_together(runs: Sequence[Timed]) -> int:
    """Returns how many answers were between their first and last token at the same time, at most."""
    changes = sorted([(run.events[0], 1) for run in runs] + [(run.events[-1], -1) for run in runs])
    now = most = 0
    for _, change in changes:
        now += change
        most = max(most, now)
    return most


def _step_s(runs: Sequence[Timed]) -> float:
    """Returns the seconds of a step, of the time in which all answers ran."""
    begin, end = max(run.events[0] for run in runs), min(run.events[-1] for run in runs)
    if end <= begin:
        return _alone_s(runs)
    steps: list[float] = []
    for run in runs:
        # Between an answer's own events: the window's ends fall between two of them, so that it holds parts of steps.
        inside = [event for event in run.events if begin <= event <= end]
        if len(inside) < 2:
            return _alone_s(runs)
        tokens = (len(inside) - 1) * run.answer_tokens / len(run.events)  # some share an event, or have none
        steps.append((inside[-1] - inside[0]) / tokens)
    return statistics.mean(steps)


def _alone_s(runs: Sequence[Timed]) -> float:
    return statistics.median(run.token_s for run in runs)


async def _turn(target: Target, effort: Effort, most: int, token_s: float) -> float:
    """Returns the seconds for which an answer of one token would hold a slot, by those that wait for it."""
    found: list[float] = []
    for _ in range(effort.repeats):
        runs = await side_by_side(target, _WAVES * most, effort.prompt_tokens, _WAVE_TOKENS)
        ends = sorted(run.events[-1] for run in runs)
        held = (statistics.median(ends[-most:]) - statistics.median(ends[:most])) / (_WAVES - 1)
        found.append(max(0.0, held - (_WAVE_TOKENS - 1) * token_s))
    return statistics.median(found)


async def _lost(
    target: Target, effort: Effort, longest: int, beside: int, points: Sequence[tuple[int, float]]
) -> float:
    """Returns the seconds that a long prompt takes from sequences that decode."""
    step_s = next(seconds for count, seconds in points if count >= beside)
    found: list[float] = []
    for _ in range(effort.repeats):
        # They must outlast the prompt: a step with a part of it takes long, and gives each of them one token.
        answer = max(effort.answer_tokens, 32 + longest // 16)
        running = [asyncio.create_task(target.stream(16, answer)) for _ in range(beside)]
        await asyncio.sleep(8 * step_s + 0.05)
        late = await target.stream(longest, 1)
        others = await asyncio.gather(*running)
        begin, end = late.begin, late.events[0]
        tokens = [
            sum(begin <= event <= end for event in one.events) * one.answer_tokens / len(one.events)
            for one in others
        ]
        found.append(end - begin - statistics.mean(tokens) * step_s)
    return statistics.median(found)


def _without_context(
    points: Sequence[tuple[int, float]], context_s: float, tokens: float
) -> tuple[tuple[int, float], ...]:
    """Returns seconds of steps without reading the context of their sequences, each of so many tokens in the mean."""
    least = 0.2  # of a step at least is no such reading, whatever the noise of both measurements
    return tuple(
        (count, max(seconds - context_s * count * tokens, least * seconds)) for count, seconds in points
    )


async def _context(target: Target, effort: Effort, long: int, beside: int) -> float:
    """Returns the seconds that a step takes longer for each token of context, by prompts of 16 and of `long` tokens."""
    short = 16
    steps: list[float] = []
    for prompt in (short, long):
        runs = [
            await side_by_side(target, beside, prompt, effort.answer_tokens) for _ in range(effort.repeats)
        ]
        steps.append(statistics.median(map(_step_s, runs)))
    return max(0.0, (steps[1] - steps[0]) / (beside * (long - short)))
